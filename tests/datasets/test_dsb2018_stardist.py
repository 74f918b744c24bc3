"""StarDist's part of DSB2018: its folders, and its usual validation part."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segmentation.datasets.download import DATASETS
from segmentation.datasets.dsb2018_stardist import DSB2018StarDist, _validation
from segmentation.datasets.synthetic import write_dsb2018_stardist
from tests.datasets.test_readers import refusal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """15 images to train, 5 to test, of 48×64."""
    return write_dsb2018_stardist(tmp_path, 20, (48, 64))


def test_samples(root: Path) -> None:
    data = DSB2018StarDist(root)
    for sample in data:
        folder = root / "dsb2018" / ("test" if sample.subset == "test" else "train")
        file = f"{sample.id}.tif"
        np.testing.assert_array_equal(
            sample.image[..., 0], tifffile.imread(folder / "images" / file)
        )
        labels = tifffile.imread(folder / "masks" / file)
        assert sample.labels is not None
        np.testing.assert_array_equal(2 * sample.labels, labels)  # without the gaps


def test_the_validation_part_is_that_of_its_notebooks(root: Path) -> None:
    names = sorted(path.name for path in (root / "dsb2018/train/images").iterdir())
    order = np.random.RandomState(42).permutation(len(names))
    validated = sorted(names[i] for i in order[-2:])  # 15 % of 15
    found = [f"{s.id}.tif" for s in DSB2018StarDist(root) if s.subset == "val"]
    assert found == validated
    assert len(set(_validation(447))) == DATASETS["dsb2018_stardist"].images["val"] == 67
    assert _validation(447)[-3:] == [348, 435, 102]


def test_what_is_missing_is_named(root: Path) -> None:
    data, folder = DSB2018StarDist(root), root / "dsb2018"
    image = sorted((folder / "train/images").iterdir())[0]
    mask = folder / "train/masks" / image.name
    mask.rename(root / "mask")
    assert f"{image.name}: no mask train/masks/{image.stem}.tif; add it" in refusal(data)
    (root / "mask").rename(mask)
    shutil.copy(image, folder / "test/images")
    assert f"{image.name}: is there again as " in refusal(data)
    (folder / "test/images" / image.name).unlink()
    image.unlink()
    says = f"{image.name}: a mask with no image; add train/images/{image.stem}.tif or remove it"
    assert says in refusal(data)
    shutil.rmtree(folder / "test")
    mask.unlink()
    assert "holds no test/images/*.tif; put dsb2018.zip" in refusal(data)


def test_other_files_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "dsb2018/train/readme.txt").touch()
    assert len(DSB2018StarDist(root)) == len(DSB2018StarDist(root / "dsb2018")) == 20
    assert "1 other (train/readme.txt)" in capsys.readouterr().err
