"""The suggested corrections: none in force, valid when all are, and they cure what was found."""

import re
from pathlib import Path

import numpy as np

from segmentation.data.cache import decoded
from segmentation.data.corrections import Corrected, Corrections, read_corrections
from segmentation.data.sample import Sample
from segmentation.evaluation.audit import suggested_corrections
from segmentation.evaluation.audit.duplicates import find_duplicates
from segmentation.evaluation.audit.samples import examine
from tests.evaluation.audit.listed import Listed, block, noise, sample


def suggested(listed: Listed, folder: Path, faults: dict[str, str] | None = None) -> str:
    store = decoded(listed, folder / "cache")
    found = find_duplicates(store, 0.4)
    bad = [pair for pair in found.pairs if pair.iou is not None and pair.iou < 0.7]
    facts = [examine(one, 10) for one in store]
    return suggested_corrections("listed", facts, found.exact, bad, faults or {})


def in_force(text: str) -> str:
    """The file with each suggestion taken."""
    return re.sub(r"^#  ", "  ", text, flags=re.MULTILINE)


def read(text: str, folder: Path) -> Corrections:
    path = folder / "corrections.yaml"
    path.write_text(text, encoding="utf-8")
    return read_corrections(path)


def near(seed: int, name: str, labels: np.ndarray, amount: float = 6) -> Sample:
    """A near-duplicate of image 0."""
    added = np.random.default_rng(seed).normal(0, amount, (48, 64))
    return sample(name, np.clip(noise(0) + added, 0, 255).astype(np.uint8), labels)


def test_suggestions(tmp_path: Path) -> None:
    listed = Listed(
        sample("1_17", noise(0), block(1, 1, 2, 2)),
        sample("1_18", noise(0), block(1, 1, 9, 9)),  # most foreground of its group: it is kept
        near(1, "é: #", np.zeros((48, 64))),
        sample("other", noise(5), block(1, 1, 9, 9)),
    )
    text = suggested(listed, tmp_path, {"1_9": "1_9.tif: broken\nhere\x07"})
    assert read(text, tmp_path) == Corrections()
    found = read(in_force(text), tmp_path)
    assert found.drop == {"1_9", "1_17"}
    assert found.masks == {"é: #": ("1_17",)}  # which is dropped, but its mask may serve


def test_all_suggestions_together_are_valid_and_cure(tmp_path: Path) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        masks = [block(*rng.integers(1, 12, 4).tolist()) * (rng.random() < 0.8) for _ in range(9)]
        some = [near(int(rng.integers(3)), str(i), mask) for i, mask in enumerate(masks)]
        listed = Listed(*some)
        text = suggested(listed, tmp_path)
        assert read(text, tmp_path) == Corrections()
        read(in_force(text), tmp_path)
        store = decoded(Corrected(listed, tmp_path / "corrections.yaml"), tmp_path / "cache")
        assert find_duplicates(store, 0.4).exact == []


def test_a_mask_that_is_preferred_stays(tmp_path: Path) -> None:
    listed = Listed(
        near(0, "a", block(1, 1, 2, 2), 0),
        near(0, "b", block(10, 10, 3, 3), 3),
        near(1, "c", block(20, 20, 4, 4), 9),
    )
    found = read(in_force(suggested(listed, tmp_path)), tmp_path)
    assert found.masks == {"a": ("b",)}  # not b: c as well


def test_nothing_to_suggest(tmp_path: Path) -> None:
    listed = Listed(sample("a", noise(0), block(1, 1, 3, 3)))
    text = suggested(listed, tmp_path)
    assert in_force(text) == text and read(text, tmp_path) == Corrections()
