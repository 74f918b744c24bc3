"""What all readers of official data sets keep: every layout, one index, one line for each fault."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from segmentation import datasets
from segmentation.data.sample import Sample, SegmentationDataset
from segmentation.datasets import synthetic
from segmentation.datasets.bbbc039 import BBBC039DataModule
from segmentation.datasets.dic_hela import DICHeLaDataModule
from segmentation.datasets.dsb2018 import DSB2018DataModule
from segmentation.datasets.dsb2018_stardist import DSB2018StarDistDataModule
from segmentation.datasets.ultrasound_nerve import UltrasoundNerveDataModule
from segmentation.errors import UserError
from tests.helpers import zip_folder

SIZE = (48, 64)
Root = Callable[[str], Path]


@dataclass(frozen=True)
class Case:
    """A data set in small: how it is written, its folders, one of its masks, its parts' sizes."""

    reader: str
    module: Any
    write: Callable[[Path], Path]
    folders: tuple[str, ...]
    mask: str
    images: int
    parts: tuple[int, int, int] | None = None


CASES = {
    "dsb2018": Case(
        "DSB2018",
        DSB2018DataModule,
        lambda root: synthetic.write_dsb2018(root, 6, SIZE, test_images=4),
        ("stage1_train", "stage1_test"),
        "stage1_train/*/masks/*.png",
        10,
    ),
    "dsb2018_stardist": Case(
        "DSB2018StarDist",
        DSB2018StarDistDataModule,
        lambda root: synthetic.write_dsb2018_stardist(root, 12, SIZE),
        ("dsb2018",),
        "dsb2018/test/masks/*.tif",
        12,
        (8, 1, 3),
    ),
    "bbbc039": Case(
        "BBBC039",
        BBBC039DataModule,
        lambda root: synthetic.write_bbbc039(root, 8, SIZE),
        ("images", "masks", "metadata"),
        "masks/*.png",
        8,
        (4, 2, 2),
    ),
    "dic_hela": Case(
        "DICHeLa",
        DICHeLaDataModule,
        lambda root: synthetic.write_dic_hela(root, 20, SIZE),
        ("DIC-C2DH-HeLa",),
        "*/01_ST/SEG/man_seg003.tif",
        20,
        (7, 2, 10),
    ),
    "ultrasound_nerve": Case(
        "UltrasoundNerve",
        UltrasoundNerveDataModule,
        lambda root: synthetic.write_ultrasound_nerve(root, 24, SIZE),
        ("train",),
        "train/4_3_mask.tif",
        24,
        (16, 4, 4),
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Each data set, written once. Do not change them."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = CASES[name].write(tmp_path_factory.mktemp(name))
        return made[name]

    return get


def opened(name: str, root: Path) -> SegmentationDataset:
    data: SegmentationDataset = getattr(datasets, CASES[name].reader)(str(root))
    return data


def refusal(data: SegmentationDataset) -> str:
    """The line that reading everything is refused with."""
    with pytest.raises(UserError) as caught:
        list(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: list[Sample], other: list[Sample]) -> None:
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.labels, second.labels)  # type: ignore[arg-type]
        about = ((s.id, s.group, s.kind, s.subset) for s in (first, second))
        assert next(about) == next(about)


@pytest.mark.parametrize("name", CASES)
def test_indexing(name: str, root: Root) -> None:
    data = opened(name, root(name))
    samples = list(data)
    assert len(data) == len(samples) == CASES[name].images
    assert [s.id for s in samples] == sorted({s.id for s in samples})
    same([data[0], data[-1]], [samples[0], samples[-1]])
    for sample in samples:
        assert sample.image.ndim == 3 and sample.image.shape[:2] == SIZE
        assert sample.labels is not None and sample.labels.dtype == np.int32
        assert np.union1d(0, sample.labels).tolist() == list(range(sample.labels.max() + 1))
    assert data.plot(0).axes[0].get_title() == samples[0].id
    with pytest.raises(IndexError):
        data[len(data)]
    with pytest.raises(AttributeError, match="has no attribute COCO"):
        _ = datasets.COCO


@pytest.mark.parametrize("top", ["", "{}/"])
@pytest.mark.parametrize("name", CASES)
def test_archives_and_folders_are_the_same(name: str, top: str, root: Root, tmp_path: Path) -> None:
    for folder in CASES[name].folders:
        zip_folder(root(name) / folder, tmp_path / f"{folder}.zip", top.format(folder))
    for table in root(name).glob("*.csv"):
        shutil.copy(table, tmp_path)
    data, wanted = opened(name, tmp_path), list(opened(name, root(name)))
    same(list(data), wanted)
    same(list(DataLoader(data, None, num_workers=2)), wanted)  # processes share no open archive
    same([pickle.loads(pickle.dumps(data))[1]], wanted[1:2])


@pytest.mark.parametrize("name", ["dsb2018", "dic_hela", "ultrasound_nerve"])
def test_the_root_may_be_the_unpacked_folder(name: str, root: Root) -> None:
    wanted = [s for s in opened(name, root(name)) if s.subset != "test"]
    same(list(opened(name, root(name) / CASES[name].folders[0])), wanted)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].parts])
def test_default_split(name: str, root: Root) -> None:
    module = CASES[name].module(str(root(name)), crop=32, num_workers=0)
    module.setup("fit")
    split = module.split
    assert (len(split.train), len(split.val), len(split.test)) == CASES[name].parts


@pytest.mark.parametrize("name", CASES)
def test_stamps_follow_the_files(name: str, root: Root, tmp_path: Path) -> None:
    shutil.copytree(root(name), tmp_path, dirs_exist_ok=True)
    data = opened(name, tmp_path)
    before = list(data.index())
    assert list(data.index()) == before == list(opened(name, tmp_path).index())
    mask = sorted(tmp_path.glob(CASES[name].mask))[0]
    mask.write_bytes(mask.read_bytes() + b" ")
    changed = [a.id for a, b in zip(before, data.index(), strict=True) if a.stamp != b.stamp]
    assert len(changed) == 1


@pytest.mark.parametrize("name", CASES)
def test_masks_that_do_not_fit(name: str, root: Root, tmp_path: Path) -> None:
    shutil.copytree(root(name), tmp_path, dirs_exist_ok=True)
    data = opened(name, tmp_path)
    mask = sorted(tmp_path.glob(CASES[name].mask))[0]
    whole = mask.read_bytes()
    mask.write_bytes(whole[: len(whole) // 2])
    assert mask.name in refusal(data)
    cv2.imwrite(str(mask), np.zeros(SIZE[::-1], np.uint8))
    assert f"{mask.name}: the mask is 64×48 (H×W) but its image is 48×64" in refusal(data)
    if name in ("dsb2018", "ultrasound_nerve"):
        cv2.imwrite(str(mask), np.arange(48 * 64, dtype=np.uint16).reshape(SIZE))
        assert f"{mask.name}: a binary mask holds 0 and one other value" in refusal(data)


@pytest.mark.parametrize("name", CASES)
def test_nothing_there(name: str, tmp_path: Path) -> None:
    assert f"{tmp_path / 'no'}: the data root does not exist; put " in refusal(
        opened(name, tmp_path / "no")
    )
    assert "the data root is empty; put " in refusal(opened(name, tmp_path))
    (tmp_path / "readme.txt").touch()
    assert "; put " in refusal(opened(name, tmp_path))
    (tmp_path / f"{CASES[name].folders[0]}.zip").write_bytes(b"<html>")
    assert f"{CASES[name].folders[0]}.zip: " in refusal(opened(name, tmp_path))
