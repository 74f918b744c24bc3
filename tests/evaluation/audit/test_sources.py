"""Likely sources of images that were made as by several microscopes, and the split proposed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from segmentation.data.sample import Sample, Split
from segmentation.data.sources import APART, SHARED, SourceSplit, read_sources
from segmentation.data.splits import RandomSplit
from segmentation.evaluation.audit import make_audit
from segmentation.evaluation.audit.sources import clusters, likely_sources, look
from tests.evaluation.audit.listed import Listed, sample, stored


def picture(
    seed: int,
    size: tuple[int, int] = (64, 80),
    radius: int = 5,
    back: int = 10,
    front: int = 160,
    blur: float = 0.7,
    tint: tuple[float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Discs on a ground, gray or tinted, and their labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.int32)
    for number in range(1, 6):
        middle = [rng.integers(radius, side - radius) for side in size]
        labels[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2] = number
    light = ndimage.gaussian_filter(np.where(labels > 0, front, back).astype(float), blur)
    light += rng.normal(0, 1, size)
    image = light[..., None] * (1.0 if tint is None else np.array(tint))
    return image.clip(0, 255).astype(np.uint8), labels


# Each differs from the first in one thing.
MICROSCOPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "large": {"radius": 12},
    "gray ground": {"back": 60},
    "blurred": {"blur": 4},
    "other size": {"size": (80, 64)},
    "stained": {"tint": (1.0, 0.6, 1.0), "back": 230, "front": 90},
    "stained otherwise": {"tint": (1.0, 0.8, 0.6), "back": 230, "front": 90},
}


def everything(labels: bool = True, **more: Any) -> list[Sample]:
    found = []
    for place, (name, how) in enumerate(MICROSCOPES.items()):
        for n in range(5):
            image, truth = picture(10 * place + n, **how)
            found.append(sample(f"{name} {n}", image, truth if labels else None))
    return found


@pytest.mark.parametrize("labels", [True, False])
def test_each_microscope_is_found(labels: bool, tmp_path: Path) -> None:
    """With the truth, which tells the sizes of objects, or by Otsu's threshold."""
    found = likely_sources(stored(tmp_path, *everything(labels)), None)
    groups = sorted(sorted({name[:-2] for name in one.images}) for one in found)
    assert groups == sorted([name] for name in MICROSCOPES)
    assert all(len(one.images) == 5 for one in found)
    about = {one.images[0][:-2]: one.about for one in found}
    assert about["usual"].startswith("64×80, gray, dark background (0.04), objects of ")
    assert about["stained"].startswith("64×80, colour, bright background")


def test_a_single_odd_image_is_no_source_and_sizes_of_crops_tell_nothing(tmp_path: Path) -> None:
    crops = [sample(f"crop{n}", *picture(n, size=(60 + n, 90 - n))) for n in range(6)]
    odd = sample("odd", *picture(7, blur=4))
    usual = [sample(f"usual{n}", *picture(n)) for n in range(3)]
    for n in range(3, 6):  # without objects, where only noise could be found
        ground = np.random.default_rng(n).normal(10, 1, (64, 80)).round().astype(np.uint8)
        usual.append(sample(f"usual{n}", ground, np.zeros((64, 80))))
    found = likely_sources(stored(tmp_path, *crops, odd, *usual), Split(("crop0",), ("odd",), ()))
    assert [len(one.images) for one in found] == [7, 6]
    assert found[0].parts == {"val": 1} and found[1].parts == {"train": 1}
    assert [one.about.partition(",")[0] for one in found] == ["64×80", "several sizes"]


def test_extremes() -> None:
    black = sample("black", np.zeros((9, 9), np.uint16), None)
    assert not look(black, None).diameter > 0 and look(black, 5.0).background == 0
    six = sample("six", np.full((9, 9, 6), 3, np.uint8), np.zeros((9, 9)))
    assert not look(six, None).colour
    assert clusters(np.full((5, 7), np.nan)).tolist() == [0] * 5
    assert clusters(np.zeros((1, 7))).tolist() == [0]
    far = np.repeat([[0.0] * 7, [9.0] * 7], 4, axis=0)
    assert len({*clusters(far)[:4]}) == 1 and clusters(far)[0] != clusters(far)[-1]


def test_the_page_shows_them_and_the_option_is_right(tmp_path: Path) -> None:
    some = [one for one in everything() if one.id[:-2] in ("usual", "large", "blurred")]
    data = Listed(*some)
    report = make_audit(data, tmp_path / "out", RandomSplit(), "random", cache=tmp_path)
    sources, page = report["sources"], (tmp_path / "out" / "audit.html").read_text()
    file = tmp_path / "out" / "sources.csv"
    assert sources["propose"] == f"--data.split SourceSplit --data.split.sources {file}"
    assert sources["propose"] in page and page.count("source-") >= 3
    assert sources["test"] == f"test images {SHARED}" and sources["test"] in page
    assert sources["known"] == 0 and len(sources["likely"]) == 3
    assert read_sources(file).keys() == {one.id for one in some}
    split = SourceSplit(sources=str(file), val=1, test=1)(some)
    again = make_audit(data, tmp_path / "again", split, "by source", cache=tmp_path)
    assert again["sources"]["test"] == APART and not again["sources"]["torn"]
    assert {*sources["torn"]} <= {"source-1", "source-2", "source-3"} and sources["torn"]
    assert "Sources in several parts of the split" in page


def test_known_sources_go_first_and_few_are_said(tmp_path: Path) -> None:
    some = everything()[:5]
    grouped = [replace(one, group="abc"[n % 3]) for n, one in enumerate(some)]
    one = make_audit(Listed(*grouped), tmp_path / "a", RandomSplit(), "random", cache=tmp_path)
    assert one["sources"]["propose"] == "--data.split SourceSplit"
    assert one["sources"]["known"] == 3
    few = make_audit(Listed(*some), tmp_path / "b", RandomSplit(), "random", cache=tmp_path)
    assert few["sources"]["propose"] is None
    says = "fewer than three sources (1): use RandomSplit, which divides image by image"
    assert says in few["sources"]["why"]
    assert (
        "Fewer than three sources (1): use RandomSplit"
        in (tmp_path / "b" / "audit.html").read_text()
    )
