"""Learning-rate schedules that need to know how long a run is.

Every scheduler of ``torch.optim.lr_scheduler`` can be named in a config as it is; those whose shape
depends on the number of steps are told it by the task.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segmentation.errors import UserError


class PerStep(LRScheduler):
    """A schedule over optimizer steps. The task sets ``total_steps`` before training starts.

    A subclass sets its own attributes before it calls ``super().__init__``.
    """

    total_steps: int = 1

    def factor(self, progress: float) -> float:
        """The multiple of the optimizer's learning rate at ``progress`` in [0, 1]."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:  # floats; torch's own type differs between its releases
        progress = min(1.0, self.last_epoch / max(1, self.total_steps))
        later = self.optimizer.param_groups[len(self.base_lrs) :]  # BackboneFinetuning sets theirs
        return [
            *(base * self.factor(progress) for base in self.base_lrs),
            *(group["lr"] for group in later),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Without ``total_steps``: a resumed run may be longer than it was."""
        return {k: v for k, v in super().state_dict().items() if k != "total_steps"}


class WarmupCosine(PerStep):
    """Linear warm-up to the optimizer's learning rate, then a half cosine to ``final`` times it.

    As in Smith's one-cycle policy ("Super-Convergence", 2018), the momentum left alone.

    Args:
        optimizer: Its learning rate is the peak.
        warmup: Share of all steps.
        start: Multiple at the first step.
        final: Multiple when all steps are done.

    Raises:
        UserError: A value is out of its range.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> [round(WarmupCosine(optimizer).factor(share), 3) for share in (0, 0.1, 0.55, 1)]
    [0.04, 1.0, 0.5, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.1, start: float = 0.04, final: float = 0.0
    ) -> None:
        if not 0 <= warmup <= 1:
            raise UserError(f"lr_scheduler.warmup: {warmup} is not a share of the steps (0 to 1)")
        for name, value in (("start", start), ("final", final)):
            if not value >= 0:
                raise UserError(f"lr_scheduler.{name}: {value} must not be negative")
        self.warmup, self.start, self.final = warmup, start, final
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        fall = (progress - self.warmup) / max(1e-9, 1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fall)) / 2
