"""What all torchmetrics classes of this package have in common."""

from typing import Self

import torch
from torchmetrics import Metric

UNIT = 2.0**-40
"""Scores of single images are summed as multiples of it: integers add up to the same sum in any
order, survive a change of dtype, and exist on every device. A mean of scores in [0, 1] is off by at
most 2^-41 (5e-13); 2^23 of them (8 million) fit an int64."""


class ExactMetric(Metric):
    """A metric whose states are integers that are summed across processes.

    Its result is the same to the bit for any order of the images and any number of processes.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    @property
    def update_called(self) -> bool:
        """Whether there was an update, here or possibly on another process.

        torchmetrics warns if `compute` comes before `update`; a process whose share of the images
        is empty is no mistake.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return super().update_called or distributed

    def set_dtype(self, dst_type: str | torch.dtype) -> Self:
        """Change nothing: in any other dtype than int64 large counts would be wrong."""
        return self
