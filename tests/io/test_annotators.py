"""What several annotators agree on."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.__main__ import main
from segmentation.data.cache import decoded
from segmentation.datasets.folder import FolderDataset
from segmentation.datasets.synthetic import write_folder
from segmentation.errors import UserError
from segmentation.evaluation.table import read_images
from segmentation.io.annotators import Annotators
from segmentation.io.images import read_mask, write_image
from segmentation.io.truth import TruthReader
from tests.helpers import arguments

FIRST = np.uint8([[1, 1, 0, 2, 2, 0], [1, 1, 0, 2, 2, 0]])
SECOND = np.uint8([[0, 3, 0, 3, 3, 0], [0, 3, 0, 3, 9, 0]])
AGREED = np.int32([[-1, 1, 0, 2, 2, 0], [-1, 1, 0, 2, 2, 0]])


def write(root: Path, first: np.ndarray, second: np.ndarray) -> Path:
    """An image, and its truth by two people."""
    for folder, values in (("images", np.zeros_like(first)), ("e1", first), ("e2", second)):
        write_image(root / folder / "a.png", values)
    return root


def test_training_truth_is_what_they_agree_on(tmp_path: Path) -> None:
    root = write(tmp_path, FIRST, SECOND)
    data = FolderDataset(root, masks=["e1", "e2"], mask_type="labels")
    np.testing.assert_array_equal(data[0].labels, AGREED)  # type: ignore[arg-type]
    opinions = data.opinions("a")
    assert list(opinions) == ["e1", "e2"]
    np.testing.assert_array_equal(opinions["e2"], np.uint8([0, 0, 0, 1, 0, 0, 0, 0, 0, 2])[SECOND])
    # The objects are the first annotator's, so that another order is other truth.
    swapped = FolderDataset(root, masks=["e2", "e1"], mask_type="labels")
    assert swapped[0].labels is not None and swapped[0].labels[0, 4] == 1 != swapped[0].labels[1, 4]
    cache = tmp_path / "cache"
    assert decoded(data, cache).folder != decoded(swapped, cache).folder
    one = FolderDataset(root, masks="e1", mask_type="labels")
    assert one.opinions("a") == {} and decoded(one, cache).folder != decoded(data, cache).folder


def test_of_classes_that_differ_none_is_learned(tmp_path: Path) -> None:
    first, second = np.uint8([[1, 1, 2, 2, 0, 0]]), np.uint8([[1, 2, 2, 2, 0, 2]])
    root = write(tmp_path, first, second)
    names = ["red", "blue"]
    (sample,) = FolderDataset(root, masks=["e1", "e2"], mask_type="classes", classes=names)
    np.testing.assert_array_equal(sample.labels, [[1, -1, 2, 2, 0, -1]])  # type: ignore[arg-type]
    assert sample.classes is not None and sample.classes.tolist() == [0, 1, 2]


def test_what_annotators_lack(tmp_path: Path) -> None:
    root = write(tmp_path, 255 * np.minimum(FIRST, 1), SECOND)
    with pytest.raises(UserError, match=r"e2/a\.png: a binary mask holds 0 and one other value"):
        FolderDataset(root, masks=["e1", "e2"])[0]
    write_image(root / "e2/b.png", FIRST)
    with pytest.raises(UserError, match="b: e1 has no truth of it, another annotator has; add it"):
        FolderDataset(root, masks=["e1", "e2"]).index()
    (root / "e2/b.png").unlink()
    write_image(root / "e2/a.png", np.uint8(255 * (FIRST == 0)))
    with pytest.raises(UserError, match="a: the annotators agree on no pixel; are they of the sa"):
        FolderDataset(root, masks=["e1", "e2"])[0]
    with pytest.raises(UserError, match="annotators: e1, e1 must be two or more different ones"):
        Annotators(["e1", "e1"], [TruthReader(), TruthReader()])


def test_a_test_scores_the_annotators_too(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", 6, size=(48, 56))
    for path in (root / "masks").iterdir():
        mask = read_mask(path)
        write_image(root / "e1" / path.name, mask)
        write_image(root / "e2" / path.name, cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    argv = arguments("fit", root, tmp_path / "runs", "--data.masks=[e1,e2]", config="folder.yaml")
    assert main([arg for arg in argv if "split" not in arg]) == 0
    (file,) = (tmp_path / "runs").glob("*/*/scores.json")
    scores = json.loads(file.read_text())
    pairs = [row["between"] for row in scores["annotators"]]
    assert pairs == [["network", "e1"], ["network", "e2"], ["e1", "e2"]]
    names = sorted(set(read_images(file.with_name("per_image.csv"))["id"]))
    wanted = [read_mask(root / e / f"{name}.png") > 0 for e in ("e1", "e2") for name in names]
    first, second = np.stack(wanted).reshape(2, -1)
    iou = (first & second).sum() / (first | second).sum()
    assert scores["annotators"][2]["iou"] == pytest.approx(iou)
