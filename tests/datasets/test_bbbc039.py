"""BBBC039: three archives that must agree, ids in red that serve several nuclei, empty fields."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.sample import Sample
from segmentation.datasets.bbbc039 import BBBC039, BBBC039DataModule, label_values
from segmentation.datasets.synthetic import write_bbbc039
from segmentation.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 fields of 48×64, the second one empty. Do not change it."""
    return write_bbbc039(tmp_path_factory.mktemp("bbbc"), 8, (48, 64))


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def samples(root: Path) -> dict[str, Sample]:
    source = BBBC039(str(root))
    return {record.id: source.read(record) for record in source.index()}


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        samples(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def slow_label_values(values: np.ndarray) -> np.ndarray:
    """Flood fill from each pixel in turn, over the eight neighbours of the same value."""
    labels = np.zeros(values.shape, np.int32)
    for start in zip(*np.nonzero(values), strict=True):
        if labels[start]:
            continue
        labels[start], front = labels.max() + 1, [start]
        while front:
            y, x = front.pop()
            for v in range(max(0, y - 1), min(values.shape[0], y + 2)):
                for u in range(max(0, x - 1), min(values.shape[1], x + 2)):
                    if not labels[v, u] and values[v, u] == values[start]:
                        labels[v, u] = labels[start]
                        front.append((v, u))
    return labels


def test_reused_values() -> None:
    rng = np.random.default_rng(0)
    for most in (0, 1, 3):
        values = (rng.integers(0, 2, (13, 17)) * rng.integers(0, most + 1, (13, 17))).astype("u1")
        found, wanted = label_values(values), slow_label_values(values)
        pairs = {(int(a), int(b)) for a, b in zip(found.flat, wanted.flat, strict=True)}
        assert len(pairs) == found.max() + 1 == wanted.max() + 1  # one to one
        assert found.dtype == np.int32 and ((found > 0) == (values > 0)).all()


def test_samples(root: Path) -> None:
    found = samples(root)
    assert len(found) == 8 and list(found) == sorted(found)
    assert Counter(s.subset for s in found.values()) == {"train": 4, "val": 2, "test": 2}
    for name, sample in found.items():
        assert sample.id == name and sample.kind == ""
        assert sample.group == name.split("_")[1]
        image = cv2.imread(str(root / "images" / f"{name}.tif"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(root / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None and mask is not None and sample.labels is not None
        assert sample.image.dtype == np.uint16
        np.testing.assert_array_equal(sample.image[..., 0], image)  # not scaled
        np.testing.assert_array_equal(sample.labels, label_values(mask[..., 2]))  # BGRA
        assert sample.labels.max() >= mask[..., 2].max()
    reused = [s for s in found.values() if s.labels is not None and s.labels.max() > 5]
    assert reused  # so values are fewer than nuclei
    empty = [s for s in found.values() if s.labels is not None and not s.labels.any()]
    assert len(empty) == 1 and empty[0].subset == "train"
    lists = {"train": "training", "val": "validation", "test": "test"}
    for subset, name in lists.items():
        listed = (root / "metadata" / f"{name}.txt").read_text().replace(".png", "").split()
        assert listed == [s.id for s in found.values() if s.subset == subset]


def test_archives_and_folders_are_the_same(root: Path, tmp_path: Path) -> None:
    write_bbbc039(tmp_path, 8, (48, 64), zipped=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.zip", "masks.zip", "metadata.zip"]
    for one, other in zip(samples(root).values(), samples(tmp_path).values(), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)  # type: ignore[arg-type]
        assert (one.id, one.group, one.subset) == (other.id, other.group, other.subset)


def test_default_split(root: Path) -> None:
    module = BBBC039DataModule(str(root), crop=32, num_workers=0)
    module.setup("fit")
    found = samples(root)
    for part in ("train", "val", "test"):
        wanted = tuple(name for name in found if found[name].subset == part)
        assert getattr(module.split, part) == wanted


def test_parts_are_missing(broken: Path) -> None:
    for name in ("images", "masks", "metadata"):
        (broken / name).rename(broken / "away")
        assert f"holds neither {name}/ nor {name}.zip; put images.zip, masks.zip" in refusal(broken)
        (broken / name).mkdir()
        assert f"{name}: holds no ." in refusal(broken)
        (broken / name).rmdir()
        (broken / "away").rename(broken / name)
    (broken / "metadata" / "validation.txt").rename(broken / "metadata" / "val.txt")
    assert "metadata: holds no validation.txt; download metadata.zip again" in refusal(broken)


def test_images_masks_and_lists_disagree(broken: Path) -> None:
    image = sorted((broken / "images").iterdir())[2]
    mask = broken / "masks" / f"{image.stem}.png"
    image.rename(broken / "image")
    line = refusal(broken)
    assert f"{mask.name}: a mask with no image; add images/{image.name} or remove it" in line
    mask.rename(broken / "mask")
    line = refusal(broken)
    assert f"metadata/validation.txt: no image images/{image.name}; add it or remove" in line
    (broken / "image").rename(image)
    assert f"{image.name}: no mask masks/{mask.name}; add it or remove the image" in refusal(broken)
    (broken / "mask").rename(mask)
    path = broken / "metadata" / "validation.txt"
    text = path.read_text()
    path.write_text(text.replace(f"{image.stem}.png\n", ""))
    assert f"{image.name}: none of the lists in metadata names it; add it or" in refusal(broken)
    path.write_text(f"\ufeff{image.stem}.tif\r\n\r\n" + text.replace(f"{image.stem}.png", ""))
    assert len(samples(broken)) == 8  # other suffixes and line ends
    test = broken / "metadata" / "test.txt"
    test.write_text(test.read_text() + f"{image.stem}.png")
    line = refusal(broken)
    assert "metadata/test.txt: IXMtest_" in line
    assert "is listed here and in " in line and "metadata/validation.txt; keep one" in line
    test.write_bytes(b"\xff\xfe\x00\x01")
    assert "metadata/test.txt: not a text file in UTF-8" in refusal(broken)
    shutil.copy(image, image.with_suffix(".tiff"))
    assert f"{image.name}f: a second file of {image.stem}; keep one" in refusal(broken)


def test_broken_files(broken: Path) -> None:
    image = sorted((broken / "images").iterdir())[5]
    mask = broken / "masks" / f"{image.stem}.png"
    whole = mask.read_bytes()
    cv2.imwrite(str(mask), np.zeros((64, 48, 4), np.uint8))
    assert f"{mask.name}: the mask is 64×48 (H×W) but its image is 48×64" in refusal(broken)
    mask.write_bytes(whole[:-30])
    assert f"{mask.name}: the PNG is damaged" in refusal(broken)
    mask.write_bytes(whole)
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(UserError, match=f"{image.name}: the TIFF"):
        decoded(BBBC039(str(broken)))


def test_real_data(real_data: Path) -> None:
    """What is known of the subset that is here, all its empty fields among it."""
    if not (real_data / "bbbc039").is_dir():
        pytest.skip("no BBBC039 among the real data")
    source = BBBC039(str(real_data / "bbbc039"))
    records = source.index()
    assert Counter(r.subset for r in records) in (
        {"train": 30, "val": 15, "test": 15},
        {"train": 100, "val": 50, "test": 50},
    )
    empty = {"F13_s7": "train", "L01_s2": "train", "L10_s6": "val"}
    for record in records:
        place = record.id.removeprefix("IXMtest_")[:6]
        assert record.group == place[:3]
        if record.subset != "test" and place not in empty:
            continue
        sample = source.read(record)
        assert sample.image.shape == (520, 696, 1) and sample.image.dtype == np.uint16
        assert sample.image.max() <= 4095 and sample.labels is not None
        assert (sample.labels.max() == 0) == (place in empty)
        assert empty.get(place, record.subset) == record.subset
