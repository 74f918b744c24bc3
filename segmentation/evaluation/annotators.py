"""Scores against each of several annotators, and of these against each other: the ceiling."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from segmentation.evaluation import table
from segmentation.evaluation.inputs import Inputs
from segmentation.io.annotators import Annotators
from segmentation.metrics.scores import scores_of
from segmentation.metrics.table import ScoreTable

SHOWN = ("image_iou", "iou", "f1", "ap50")  # the same whichever of two is the truth


def annotator_scores(inputs: Inputs) -> list[dict[str, Any]]:
    """:meth:`AnnotatorScores.report` of a prediction and several truths."""
    reader = inputs.truth.reader
    assert isinstance(reader, Annotators)
    scores = AnnotatorScores(reader.names, "prediction")
    for name in inputs.names:
        found = inputs.read(name)[1].labels
        height, width = found.shape
        opinions = reader.opinions(name, inputs.truth.files[name], (height, width))
        labels = (one.labels for one in opinions)
        scores.update(name, found, dict(zip(reader.names, labels, strict=True)))
    return scores.report()


class AnnotatorScores:
    """Scores of label maps against each annotator, and of each pair of annotators.

    What one of a pair has not annotated counts in neither's favour.
    """

    def __init__(
        self, names: Sequence[str], method: str, device: torch.device | str = "cpu"
    ) -> None:
        self.names, self.method = tuple(names), method
        pairs = [(method, name) for name in self.names] + list(combinations(self.names, 2))
        self._tables = {pair: ScoreTable().to(device) for pair in pairs}

    def update(self, name: str, found: np.ndarray, opinions: Mapping[str, np.ndarray]) -> None:
        """Add an image: (H, W) int32 ids ≥ 0 that were found, and those of each annotator."""
        maps = {self.method: found, **opinions}
        for (one, other), scored in self._tables.items():
            truth = np.where(maps[one] < 0, -1, maps[other])
            both = torch.from_numpy(truth)[None], torch.from_numpy(maps[one].clip(0))[None]
            scored.update(*both, ids=[name])

    def report(self) -> list[dict[str, Any]]:
        """One row for each pair: ``between`` and the scores over all images.

        Under DDP all processes must call it.
        """
        rows: list[dict[str, Any]] = []
        for pair, scored in self._tables.items():
            values = table.values_of(scores_of(table.columns(scored.rows())))
            rows.append({"between": list(pair), **{name: values[name] for name in SHOWN}})
        return rows
