"""The one table of scores, as a torchmetrics metric: a row of counts for each image."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from segmentation.metrics.classes import class_row, count_columns
from segmentation.metrics.counts import (
    KINDS,
    OBJECTS,
    PIXELS,
    annotated,
    image_counts,
    probability_histogram,
)
from segmentation.metrics.scores import per_image_columns, ranking_scores, scores_of
from segmentation.score_names import logged

if TYPE_CHECKING:  # importing pandas takes half a second, and training does not need it
    import pandas as pd

ABOUT = ("id", "kind", "group")


class ScoreTable(Metric):
    """All scores of :mod:`segmentation.metrics.scores`, from one row of integers an image.

    Every score is the same to the bit for any order of the images and any number of processes.

    Args:
        threshold: A pixel is predicted foreground if its probability is greater; in [0, 1], else a
            ``ValueError``.
        objects: Whether to score objects.
        boundary: Whether to score outlines and to count the kinds of objects, which only
            :meth:`rows` shows.
        class_names: Of the objects' classes, to score each.

    >>> table = ScoreTable()
    >>> table.update(torch.tensor([[[1, 1, 0, 2]]]), torch.tensor([[[1, 1, 0, 0]]]), ids=["a"])
    >>> float(table.compute()["ap50"]), table.rows()["fn"].tolist()
    (0.5, [1])
    """

    is_differentiable = False
    higher_is_better = None  # of a count error it is not
    full_state_update = False

    counts: list[Tensor]  # int64, the rows one after the other
    names: list[Tensor]  # uint8, id, kind and group of each as a line of JSON
    histogram: Tensor  # (2, bins) int64

    def __init__(
        self,
        threshold: float = 0.5,
        objects: bool = True,
        boundary: bool = False,
        class_names: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        self.threshold, self.objects, self.boundary = threshold, objects, boundary
        self.class_names = class_names
        self.add_state("counts", [], dist_reduce_fx="cat")
        self.add_state("names", [], dist_reduce_fx="cat")
        zeros = torch.zeros(2, 1024, dtype=torch.int64)
        self.add_state("histogram", zeros, dist_reduce_fx="sum")

    def update(
        self,
        truth: Tensor,
        labels: Tensor | None = None,
        probs: Tensor | None = None,
        ids: Sequence[str] = (),
        kinds: Sequence[str] = (),
        groups: Sequence[str] = (),
        classes: Sequence[Any] = (),
        found_classes: Sequence[Any] = (),
    ) -> None:
        """Add a batch of images, or nothing: what is not as follows is a ``ValueError``.

        Args:
            truth: (B, H, W) integer ids of the true objects, 0 = background, -1 = not annotated.
            labels: The same of the predicted objects, where objects are scored.
            probs: (B, H, W) floating point, probability of the foreground in [0, 1]. Without, the
                foreground is that of ``labels``, and nothing is ranked.
            ids, kinds, groups: B texts each, or none.
            classes, found_classes: B arrays or tensors (n + 1,), the class of each true and of each
                predicted id, with ``class_names``.
        """
        predicted = labels if probs is None else probs
        if predicted is None or (self.objects and labels is None):
            raise ValueError("labels are missing")
        for other in (predicted, labels):
            if other is not None and (truth.ndim != 3 or other.shape != truth.shape):
                shapes = f"{tuple(truth.shape)} and {tuple(other.shape)}"
                raise ValueError(f"truth and prediction must both be (B, H, W), got {shapes}")
        hist: Tensor | int = 0
        if probs is not None:
            ranked, true = annotated(probs, truth)
            hist = probability_histogram(ranked, true > 0) if ranked.numel() else 0
        masks = (predicted > (0 if probs is None else self.threshold)).cpu().numpy()
        found = labels.cpu().numpy() if labels is not None and self.objects else [None] * len(masks)
        rows = [
            image_counts(one, other, mask, self.boundary)
            for one, other, mask in zip(truth.cpu().numpy(), found, masks, strict=True)
        ]
        if self.class_names:
            if len(classes) != len(rows) or len(found_classes) != len(rows):
                raise ValueError("classes are missing")
            both = [
                [torch.as_tensor(one).cpu().numpy() for one in some]
                for some in (classes, found_classes)
            ]
            maps = zip(rows, truth.cpu().numpy(), found, *both, strict=True)
            count = len(self.class_names)
            rows = [
                np.append(row, class_row(one, other, true, predicted_as, count))
                for row, one, other, true, predicted_as in maps
            ]
        texts = [some or [""] * len(rows) for some in (ids, kinds, groups)]
        lines = "".join(f"{json.dumps(one)}\n" for one in zip(*texts, strict=True))
        self.counts.append(torch.tensor(np.ravel(rows), dtype=torch.int64, device=self.device))
        self.names.append(torch.tensor(list(lines.encode()), dtype=torch.uint8, device=self.device))
        self.histogram = self.histogram + hist

    def compute(self) -> dict[str, Tensor]:
        """The scores that are logged, as float64 scalars; NaN without images."""
        rows = self._rows()
        rows = rows[np.lexsort(rows.T)]  # floats have the same sum only in the same order
        columns = per_image_columns(rows, self.class_names)
        values = {name: score.value for name, score in scores_of(columns).items()}
        values |= {k: float(v) for k, v in ranking_scores(self.histogram.cpu().numpy()).items()}
        real = torch.float32 if self.device.type == "mps" else torch.float64
        return {
            name: torch.tensor(values[name], dtype=real, device=self.device)
            for name in logged(self.class_names)
            if name in values
        }

    def rows(self) -> "pd.DataFrame":
        """The table, by id: ``ABOUT``, counts, scores. Under DDP all processes must call it."""
        import pandas as pd

        with self.sync_context():
            lines = bytes(_one_tensor(self.names).tolist()).decode().splitlines()
            about = pd.DataFrame([json.loads(line) for line in lines], columns=[*ABOUT])
            columns = per_image_columns(self._rows(), self.class_names)
            frame = pd.concat([about, pd.DataFrame(columns)], axis=1)
        return frame.sort_values("id", kind="stable", ignore_index=True)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As any metric's; a process without images takes part with empty states."""
        for state, dtype in ((self.counts, torch.int64), (self.names, torch.uint8)):
            if isinstance(state, list) and not state:
                state.append(torch.zeros(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    @property
    def update_called(self) -> bool:
        """As any metric's, without its warning where a process has no image."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return super().update_called or distributed

    def _rows(self) -> np.ndarray:
        width = len(PIXELS) + self.objects * len(OBJECTS)
        width += self.boundary * (2 + self.objects * len(KINDS))
        width += len(count_columns(self.class_names))
        return _one_tensor(self.counts).numpy().astype(np.int64).reshape(-1, width)


def _one_tensor(state: list[Tensor] | Tensor) -> Tensor:
    """One tensor on the CPU, before and after torchmetrics has gathered a state."""
    parts = [state] if isinstance(state, Tensor) else state
    return torch.cat([torch.zeros(0, dtype=torch.uint8), *(part.cpu() for part in parts)])
