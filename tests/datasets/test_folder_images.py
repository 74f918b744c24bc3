"""Images of several channels, stacks with stacks of masks, and channels in files of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segmentation.data.consistency import leaking_stacks
from segmentation.data.preprocess import Preprocess
from segmentation.data.splits import GroupSplit, RandomSplit
from segmentation.datasets.folder import FolderDataModule, FolderDataset
from segmentation.io.images import write_image
from segmentation.io.stacks import TiffPlanes
from tests.errors import refuses

RNG = np.random.default_rng(0)


def cells(*leading: int, channels: int = 1, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Noise with bright squares, (…, C, H, W) uint16, and their ids, (…, H, W) uint16."""
    image = RNG.integers(0, 300, (*leading, channels, side, side)).astype(np.uint16)
    labels = np.zeros((*leading, side, side), np.uint16)
    for number, (top, left) in enumerate(RNG.permutation(9)[:4, None] // [[3, 1]] % 3, start=1):
        window = np.s_[..., top * 16 + 3 : top * 16 + 12, left * 16 + 3 : left * 16 + 12]
        labels[window] = number
        image[window] += 900
    return image, labels


def save(path: Path, array: np.ndarray, axes: str, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = settings.pop("names", None)
    metadata = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    metadata |= {"Channel": {"Name": names}} if names else {}
    settings = {"photometric": "minisblack", "ome": True, **settings}
    tifffile.imwrite(path, array, metadata=metadata, **settings)


def test_planes_of_a_stack_are_samples_of_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = {name: cells(2, 3, channels=2) for name in ("a", "b", "patient/c")}
    for name, (image, labels) in stacks.items():
        save(tmp_path / f"images/{name}.tif", image, "TZCYX", names=["DAPI", "GFP"])
        save(tmp_path / f"masks/{name}.tif", labels, "TZYX")
    image, labels = cells(channels=2)
    save(tmp_path / "images/single.ome.tif", image, "CYX", names=["DAPI", "GFP"])
    save(tmp_path / "masks/single.tif", labels, "YX")
    data = FolderDataset(tmp_path, mask_type="labels")
    ids = [f"{name}#000{i}" for name in ("a", "b") for i in range(6)]
    assert [r.id for r in data.records] == [
        *ids, *(f"patient/c#000{i}" for i in range(6)), "single"
    ]  # fmt: skip
    assert [r.group for r in data.records] == [*"aaaaaabbbbbb", *["patient"] * 6, ""]
    for name, (image, labels) in stacks.items():
        for number in range(6):
            record = next(r for r in data.records if r.id == f"{name}#000{number}")
            sample = data.read(record)
            t, z = divmod(number, 3)
            np.testing.assert_array_equal(sample.image, np.moveaxis(image[t, z], 0, 2))
            assert (sample.labels > 0).sum() == (labels[t, z] > 0).sum()
            assert (sample.channels, sample.pixel_size) == (("DAPI", "GFP"), (0.5, 0.5))
    read = TiffPlanes._read
    asked = []
    monkeypatch.setattr(TiffPlanes, "_read", lambda *a: asked.append(a[2]) or read(*a))
    data[4]
    assert asked == [4]
    samples = list(data)
    split = GroupSplit(1, 1)(samples)
    stack_of = {s.id: s.id.partition("#")[0] for s in samples}
    parts = [{stack_of[i] for i in part} for part in (split.train, split.val, split.test)]
    assert not parts[0] & parts[1] and not parts[1] & parts[2]
    assert not leaking_stacks(samples, split)  # type: ignore[arg-type]
    (line,) = leaking_stacks(samples, RandomSplit(4, 4)(samples))  # type: ignore[arg-type]
    assert "planes of" in line and "set data.split to GroupSplit" in line


def test_stacks_and_their_masks_must_fit(tmp_path: Path) -> None:
    image, labels = cells(6)
    save(tmp_path / "images/a.tif", image[:, 0], "ZYX")
    save(tmp_path / "masks/a.tif", labels[:5], "ZYX")
    data = FolderDataset(tmp_path, mask_type="labels")
    says = r"masks/a.tif: 5 plane\(s\), but the stack a.tif has 6; save a mask of as many planes"
    refuses(says, data.index)
    save(tmp_path / "masks/a.tif", labels[0], "YX")
    refuses(r"masks/a.tif: 1 plane\(s\), but the stack a.tif has 6", data.index)
    tifffile.imwrite(tmp_path / "images/a.tif", image[:, 0], photometric="minisblack")
    refuses(r"or, if they are channels, save .* axes C, Y, X", data.index)
    save(tmp_path / "images/a.tif", image[0], "CYX")  # one plane of one channel
    save(tmp_path / "masks/a.tif", labels, "ZYX")
    refuses(r"masks/a.tif: a stack of 6 planes; save each plane", lambda: data[0])
    save(tmp_path / "images/a.tif", image[:, 0], "ZYX")
    save(tmp_path / "masks/a.tif", labels[..., :40], "ZYX")
    refuses("the mask is 48×40", data.read, FolderDataset(tmp_path, mask_type="labels").records[2])


def nnunet(root: Path, cases: int = 3, channels: int = 2) -> dict[str, np.ndarray]:
    made = {}
    for case in range(cases):
        image, labels = cells(channels=channels)
        for number in range(channels):
            path = root / f"images/case{case}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image[number])
        (root / "masks").mkdir(exist_ok=True)
        write_image(root / f"masks/case{case}.png", labels)
        made[f"case{case}"] = np.moveaxis(image, 0, 2)
    return made


def test_files_of_nnunet_are_channels(tmp_path: Path) -> None:
    made = nnunet(tmp_path)
    data = FolderDataset(tmp_path, mask_type="labels")
    assert [r.id for r in data.records] == list(made)
    for sample in data:
        np.testing.assert_array_equal(sample.image, made[sample.id])
        assert sample.channels == ("0", "1")
    before = data.index()[1].stamp
    write_image(tmp_path / "images/case1_0001.png", np.zeros((48, 40), np.uint16))
    assert data.index()[1].stamp != before
    says = r"case1_0001.png: 1 plane\(s\) of 48×40 pixels and 1 channel\(s\), as a channel beside"
    refuses(says, lambda: data[1])
    (tmp_path / "images/case1_0001.png").unlink()
    refuses(r"case1_0000.png: case1 has no channel case1_0001, as oth", data.index)


def test_frames_with_masks_of_their_own_are_no_channels(tmp_path: Path) -> None:
    nnunet(tmp_path, cases=1)
    (tmp_path / "masks/case0.png").rename(tmp_path / "masks/case0_0000.png")
    write_image(tmp_path / "masks/case0_0001.png", cells()[1])
    data = FolderDataset(tmp_path, mask_type="labels")
    assert [r.id for r in data.records] == ["case0_0000", "case0_0001"]
    assert data[1].image.shape == (48, 48, 1)


def test_channels_are_called_alike(tmp_path: Path) -> None:
    for number, names in enumerate([["DAPI", "GFP"], ["GFP", "DAPI"], ["DAPI", "GFP"]]):
        image, labels = cells(channels=2)
        save(tmp_path / f"images/{number}.tif", image, "CYX", names=names)
        save(tmp_path / f"masks/{number}.tif", labels, "YX")

    def prepared(*channels: int | str) -> Any:
        how = Preprocess(channels)
        data = FolderDataModule(str(tmp_path), mask_type="labels", preprocess=how, crop=32,
                                split=RandomSplit(1, 1))  # fmt: skip
        data.setup("fit")
        return data.prepared

    refuses(r"1: its channel 0 is called GFP, but DAPI in 0; choose", prepared, 0)
    stores = prepared("DAPI")
    first = [sample.image for sample in stores]
    assert [image.shape for image in first] == [(48, 48, 1)] * 3
    refuses(r"0: there is no channel Cy5 in the image, which has 2 \(", prepared, "Cy5")
    refuses("there is no channel 2 in the image", prepared, 2)
