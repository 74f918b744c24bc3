"""Images that are annotated in part: their windows, their augmentation, what a batch says."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmentation.data.annotated import AnnotatedPixels
from segmentation.data.augment import RECIPES, Augmentation, random_crop
from segmentation.data.datamodule import DataFiles, SegmentationDataModule
from segmentation.data.sample import Record, Sample
from segmentation.data.samplers import Sampling
from segmentation.data.splits import ListSplit
from segmentation.targets import Distance, Foreground, Target
from segmentation.targets.border_weights import BorderWeight
from tests.data.test_augment import scene
from tests.data.test_datamodule import under
from tests.errors import refuses


@dataclass
class Made:
    """Images of 64×48: of the first ``partial`` ones a window is annotated, others are whole."""

    partial: int
    window: tuple[slice, slice] = (slice(40, 50), slice(5, 20))
    nothing: bool = False
    name: str = "partly"
    version: int = 1

    def index(self) -> list[Record]:
        return [Record(f"m{i}", f"{i}.png", (), repr(self)) for i in range(6)]

    def read(self, record: Record) -> Sample:
        rng = np.random.default_rng(int(record.id[1:]))
        labels = np.kron(np.arange(12).reshape(4, 3), np.ones((16, 16), np.int32)).astype(np.int32)
        if int(record.id[1:]) < self.partial:
            known = np.zeros(labels.shape, bool)
            known[self.window] = not self.nothing
            labels[~known] = -1
        image = rng.integers(0, 256, (*labels.shape, 1), dtype=np.uint8)
        return Sample(record.id, image, labels)


def module(
    root: Path, source: Made, target: Any = None, parts: Any = None, **settings: Any
) -> SegmentationDataModule:
    lists = {"train": "m0 m1 m2 m3", "val": "m4", "test": "m5"}
    for part, names in lists.items():
        (root / part).write_text("\n".join(names.split()))
    split = ListSplit(*(str(root / part) for part in lists))
    defaults: dict[str, Any] = {"crop": 16, "num_workers": 0, "batch_size": 4}
    files = DataFiles(cache=str(root / "cache"))
    about = {**defaults, "files": files, "split": split, **settings}
    return SegmentationDataModule(source, target=target or Foreground(), **about)


def test_pixels_are_drawn_uniformly_and_found_in_the_window() -> None:
    rng = np.random.default_rng(0)
    labels = np.full((40, 30), -1, np.int8)
    labels[3, 4], labels[20:22, 10:13], labels[39, 29] = 0, 2, 1
    image = np.arange(1200, dtype=np.uint16).reshape(40, 30, 1)
    pixels = AnnotatedPixels([])
    pixels.partial = {0}
    drawn = [pixels.draw(0, labels, rng) for _ in range(1600)]
    counts = {place: drawn.count(place) for place in set(drawn)}
    assert set(counts) == {(int(y), int(x)) for y, x in np.argwhere(labels >= 0)}
    assert min(counts.values()) > 140 and max(counts.values()) < 260  # 200 each, 4 σ
    assert pixels.draw(1, labels, rng) is None  # annotated as a whole
    starts = set()
    for place in drawn[:400]:
        for size in ((8, 8), (50, 10), (64, 64)):
            cut, moved, *_ = random_crop(image, labels, None, size, rng, pixel=place)
            assert cut.shape[:2] == moved.shape == size
            found = np.isin(cut[..., 0], image[place])
            assert found.any() and (moved[found] == labels[place]).all()
        starts.add(int(random_crop(image, labels, None, (8, 8), rng, pixel=(20, 12))[0][0, 0, 0]))
    assert len(starts) == 64  # the pixel lies anywhere in the window


def test_nothing_changes_where_all_is_annotated(tmp_path: Path) -> None:
    whole = under(module(tmp_path, Made(0)))
    batch = next(iter(whole.train_dataloader()))
    assert set(batch) == {"image", "target", "id", "kind"}
    some = under(module(tmp_path, Made(1)))
    other = next(iter(some.train_dataloader()))
    for i, name in enumerate(batch["id"]):
        if name != "m0":  # the same windows
            assert torch.equal(batch["image"][i], other["image"][i])
            assert other["annotated"][i].all()


@pytest.mark.parametrize("settings", [{}, {"zoom": (0.6, 1.5)}, {"augmentation": "elastic"}])
def test_windows_hold_annotated_pixels(tmp_path: Path, settings: dict[str, Any]) -> None:
    weight = BorderWeight()
    sampling = Sampling(length=64)
    data = under(module(tmp_path, Made(4), weight=weight, sampling=sampling, **settings))
    seen = 0
    for batch in data.train_dataloader():
        known = batch["annotated"]
        assert known.shape == (4, 16, 16) and known.dtype == torch.bool
        assert known.flatten(1).any(1).all()
        assert not batch["target"][:, 0][~known].any() and not batch["weight"][~known].any()
        assert (batch["weight"][known] > 0).all()
        seen += int(known.sum())
    assert seen > 64 * 30
    validation = next(iter(data.val_dataloader()))
    assert "annotated" not in validation  # its part has no such image


def test_evaluation_hands_on_what_is_not_annotated(tmp_path: Path) -> None:
    data = under(module(tmp_path, Made(6), target=Distance()))
    (batch,) = data.val_dataloader()
    labels = batch["labels"][0]
    assert batch["labels"].dtype == torch.int32 and int((labels >= 0).sum()) == 150
    assert not batch["annotated"].any()  # each object goes on outside of the window
    assert not batch["target"].any()


def test_an_image_without_annotation_is_named(tmp_path: Path) -> None:
    data = module(tmp_path, Made(1, nothing=True))
    refuses(r"^partly: m0 is in train but none of its pixels is annotated", under, data)


@pytest.mark.parametrize(("target", "warned"), [(Foreground(), False), (Distance(), True)])
def test_a_target_that_finds_no_object_is_told(
    tmp_path: Path, target: Target, warned: bool
) -> None:
    data = module(tmp_path, Made(4), target=target, crop=48)  # larger than what is annotated
    with pytest.warns(UserWarning) if warned else nullcontext() as told:
        under(data)
    if told:
        says = "in 4 training windows of images that are annotated in part Distance finds nothing"
        assert says in str(told[0].message)


def test_draws_follow_the_annotated_pixels(tmp_path: Path) -> None:
    data = under(module(tmp_path, Made(2)))
    weights = Sampling(balance=1).weights(data.parts["train"].entries)
    assert weights is not None
    np.testing.assert_allclose(np.array(weights) * 4, [150, 150, 64 * 48, 64 * 48])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_every_recipe_moves_what_is_not_annotated(recipe: str, dtype: type) -> None:
    image, labels = scene(channels=3)
    partial = labels.astype(dtype)
    partial[20:40, 10:50] = -1
    weight = (partial >= 0).astype(np.float32)
    augmentation = Augmentation(recipe, 3)
    for seed in range(8):
        new, moved, heavy = augmentation(image, partial, weight, np.random.default_rng(seed))
        same, whole, _ = augmentation(image, labels, None, np.random.default_rng(seed))
        assert moved.dtype == dtype and set(np.unique(moved)) <= set(np.unique(partial))
        assert heavy is not None
        np.testing.assert_array_equal(heavy > 0, moved >= 0)
        np.testing.assert_array_equal(moved[moved >= 0], whole[moved >= 0])
        np.testing.assert_array_equal(new, same)
