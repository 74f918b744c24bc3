"""Classes in a data module: what fits, and what is told in one line where it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.data.classes import class_levels
from segmentation.data.datamodule import DataFiles, SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.data.splits import RandomSplit
from segmentation.datasets.synthetic_classes import NAMES
from segmentation.targets import Classes, Foreground, Target
from tests.cells import Cells
from tests.errors import refuses


def module(cache: Path, source: Cells, target: Target, **more: Any) -> SegmentationDataModule:
    parts: Any = {"split": RandomSplit(val=2, test=2), "crop": 32, "num_workers": 0, **more}
    files = DataFiles(cache=str(cache))
    return SegmentationDataModule(
        source, preprocess=Preprocess("gray"), target=target, files=files, **parts
    )


def test_batches_have_classes(tmp_path: Path) -> None:
    data = module(tmp_path, Cells(), Classes(NAMES), batch_size=2)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["target"].shape == (2, 32, 32) and batch["target"].max() <= 3
    for batch in data.val_dataloader():
        labels, classes = batch["labels"][0].numpy(), batch["classes"][0].numpy()
        assert len(classes) == labels.max() + 1
        np.testing.assert_array_equal(batch["target"][0].numpy(), classes[labels])


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ({}, Classes(["round", "long"]), "round, long are not the classes of the data, round, lo"),
        ({"class_names": ()}, Classes(["a", "b"]), "holds class 3, but model.target names 2"),
        (
            {"classes": None},
            Classes(NAMES),
            "its truth has no classes, but model.target, Classes, tells round, long, large apart",
        ),
    ],
)
def test_truth_and_target_that_do_not_fit(
    source: dict[str, Any], target: Target, says: str, tmp_path: Path
) -> None:
    cells = Cells()
    vars(cells).update(source)
    refuses(says, module(tmp_path, cells, target).setup, "fit")


def test_a_class_without_an_object_is_told_once(tmp_path: Path) -> None:
    data = module(tmp_path, Cells(only=(1, 3)), Classes(NAMES))
    with pytest.warns(UserWarning, match="no train image holds an object of class long") as told:
        data.setup("fit")
    data.setup("test")
    assert len(told) == 1


def test_a_target_without_classes_takes_any_truth(tmp_path: Path) -> None:
    module(tmp_path, Cells(), Foreground()).setup("fit")


def test_levels_are_means_over_pixels() -> None:
    cells = Cells(3)
    samples = list(cells)
    grays = [sample.image[..., 0] for sample in samples]
    pixels = np.concatenate([gray.ravel() for gray in grays]).astype(float)
    kinds = np.concatenate([s.classes[s.labels].ravel() for s in samples])  # type: ignore[index]
    expected = [pixels[kinds == c].mean() for c in (1, 2, 3)]
    levels = class_levels(grays, samples, 4)
    np.testing.assert_allclose(levels[:3], expected)
    assert np.isnan(levels[3])
