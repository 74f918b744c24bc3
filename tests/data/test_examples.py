"""Fixed copies, grid tiles, blank and empty images, weights: what the published systems need."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.examples import draw_weights
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Record, Sample
from segmentation.data.splits import RandomSplit
from segmentation.datasets.dsb2018 import DSB2018DataModule
from segmentation.errors import UserError
from segmentation.targets.border_weights import WeightMap


@dataclass
class Coded:
    """Images whose every pixel tells where it is; one object in the top left corner."""

    count: int = 5
    size: tuple[int, int] = (16, 24)
    empty: Sequence[int] = ()
    twins: Sequence[int] = ()  # all of them the same image
    name: str = "coded"
    version: int = 1

    def index(self) -> Sequence[Record]:
        return [Record(f"c{i}", f"{i}.png", (), repr(self)) for i in range(self.count)]

    def read(self, record: Record) -> Sample:
        i = int(record.id[1:])
        height, width = self.size
        image = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
        image = image + np.uint8(7 * (self.twins[0] if i in self.twins else i))
        labels = np.zeros(self.size, np.int32)
        if i not in self.empty:
            labels[:4, :6] = 1
        return Sample(record.id, image, labels)


class Ten(WeightMap):
    """Weighs objects ten times as much."""

    key = "ten"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        return np.where(labels > 0, 10, 1).astype(np.float32)


def coded(source: Coded | None = None, **settings: Any) -> SegmentationDataModule:
    defaults: dict[str, Any] = {
        "split": RandomSplit(val=1, test=1, stratify=False),
        "num_workers": 0,
        "seed": 0,
        "crop": None,
        "augmentation": "flips",
        "batch_size": 1,
    }
    return SegmentationDataModule(source or Coded(), **(defaults | settings))


def under(
    data: SegmentationDataModule, preprocess: Preprocess | None = None
) -> SegmentationDataModule:
    data.preprocess = preprocess or Preprocess(channels=1, intensity="divide")
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    data.prepare_data()
    data.setup("fit")
    return data


def seen(data: SegmentationDataModule, epoch: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Every example of an epoch, by sample id."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in loader:
        found.setdefault(batch["id"][0], []).append({k: v[0] for k, v in batch.items()})
    return found


def test_copies_are_the_same_every_epoch_and_the_first_is_the_image_itself() -> None:
    data = under(coded(copies=4))
    first, later = seen(data), seen(data, 3)
    assert first.keys() == later.keys() and len(first) == 3 * 4
    for name, (example,) in first.items():
        assert torch.equal(example["image"], later[name][0]["image"])
        assert torch.equal(example["target"], later[name][0]["target"])
        original = data.prepared[data._places[name.partition("#")[0]]]
        assert original.labels is not None
        if "#" not in name:
            assert torch.equal(example["image"][0], torch.tensor(original.image[..., 0]))
            assert torch.equal(
                example["target"][0], torch.tensor(original.labels > 0).to(torch.uint8)
            )
        else:  # flipped: the same pixels, elsewhere, and the mask with them
            assert sorted(example["image"].flatten().tolist()) == sorted(original.image.flatten())
            under_mask = original.image[original.labels > 0].flatten()
            moved = example["image"][0][example["target"][0] > 0]
            assert sorted(moved.tolist()) == sorted(under_mask)
    copies = {
        name: [first[f"{name}#{c}"][0]["image"] for c in (1, 2, 3)] for name in data.split.train
    }
    assert any(not torch.equal(a[0], a[1]) or not torch.equal(a[0], a[2]) for a in copies.values())


def test_copies_depend_on_the_seed_and_the_recipe() -> None:
    def images(**settings: Any) -> bytes:
        data = under(coded(copies=6, **settings))
        return b"".join(e[0]["image"].numpy().tobytes() for _, e in sorted(seen(data).items()))

    plain = images()
    assert plain == images() != images(seed=1)
    assert plain != images(augmentation="light")


def test_copies_are_cropped_once_for_all() -> None:
    data = under(coded(copies=3, crop=(8, 8), zoom=(0.7, 1.4)))
    first, later = seen(data), seen(data, 1)
    for name, (example,) in first.items():
        assert example["image"].shape == (1, 8, 8)
        assert torch.equal(example["image"], later[name][0]["image"])


def test_without_copies_every_epoch_is_augmented_anew() -> None:
    data = under(coded(Coded(count=9)))
    first, later = seen(data), seen(data, 1)
    assert any(not torch.equal(first[n][0]["image"], later[n][0]["image"]) for n in first)


def test_validation_copies() -> None:
    data = under(coded(copies=3, copies_in_val=True))
    (name,) = data.split.val
    batches = list(data.val_dataloader())
    assert [b["id"][0] for b in batches] == [name, f"{name}#1", f"{name}#2"]
    assert all((b["labels"] > 0).sum() == 24 for b in batches)
    assert len(list(under(coded(copies=3)).val_dataloader())) == 1


@pytest.mark.parametrize("copies", [None, 2])
def test_tiles_cover_each_image_once(copies: int | None) -> None:
    data = under(coded(division=4, copies=copies, augmentation="none"))
    found = seen(data)
    assert len(found) == 3 * (copies or 1)
    for name, tiles in found.items():
        assert len(tiles) == 16
        original = data.prepared[data._places[name.partition("#")[0]]].image
        pixels = torch.cat([t["image"].flatten() for t in tiles]).tolist()
        assert Counter(pixels) == Counter(original.flatten().tolist())
        assert all(t["image"].shape == (1, 4, 6) for t in tiles)
        assert sum(bool(t["target"].any()) for t in tiles) == 1


def test_blank_tiles_can_be_dropped_and_blank_images_added() -> None:
    dropped = seen(under(coded(division=4, blank="drop", augmentation="none")))
    assert [len(tiles) for tiles in dropped.values()] == [1, 1, 1]
    assert all(tiles[0]["target"].all() for tiles in dropped.values())

    data = under(coded(blank="add", copies=2))
    added = seen(data)
    assert len(added) == 3 * 3
    for name in data.split.train:
        (blank,) = added[f"{name}#blank"]
        assert not blank["target"].any()
        original = data.prepared[data._places[name]]
        assert original.labels is not None
        assert set(blank["image"].flatten().tolist()) <= set(
            original.image[original.labels == 0].flatten()
        )
    assert len(seen(under(coded(blank="add")))) == 3 * 2


def test_tiles_that_do_not_divide_the_image() -> None:
    with pytest.raises(UserError, match=r"data\.division: 5×5 tiles do not divide c\d of 16×24"):
        under(coded(division=5))
    with pytest.raises(UserError, match=r"data\.blank: drop leaves nothing to train on"):
        under(coded(Coded(empty=range(5)), division=2, blank="drop"))


def test_empty_images_are_kept_dropped_or_balanced() -> None:
    source = Coded(count=12, empty=range(3, 12))
    split = RandomSplit(val=2, test=2, seed=1, stratify=False)
    kept, dropped, everywhere = (
        under(coded(source, empty=empty, split=split)).split
        for empty in ("keep", "drop", "drop_everywhere")
    )
    full = {"c0", "c1", "c2"}
    assert set(dropped.train) == set(kept.train) & full
    assert dropped.val == kept.val and dropped.test == kept.test

    with pytest.raises(UserError, match="no image in"):
        under(coded(Coded(empty=range(5)), empty="drop"))
    assert not (set(everywhere.val) | set(everywhere.test)) - full

    data = under(coded(source, empty="balance", split=split, length=4000))
    drawn = Counter(bool(e["target"].any()) for es in seen(data).values() for e in es)
    assert abs(drawn[True] / 4000 - 0.5) < 0.03  # 3 σ


def test_draw_weights() -> None:
    def entry(kind: str, height: int, objects: int) -> Any:
        return SimpleNamespace(kind=kind, image=(0, (height, 10, 1), "|u1"), objects=objects)

    entries = [entry("a", 10, 1), entry("a", 10, 0), entry("b", 40, 0)]
    assert draw_weights(entries, 0, False) == [1, 1, 1]
    assert draw_weights(entries, 1, False) == [50, 50, 400]
    assert draw_weights(entries, 0.5, False) == pytest.approx([50**0.5, 50**0.5, 20])
    assert draw_weights(entries, 1, True) == pytest.approx([1, 50 / 450, 400 / 450])
    assert draw_weights(entries[1:], 0, True) == [1, 1]  # nothing to balance


@pytest.mark.parametrize("settings", [{}, {"copies": 3}, {"division": 2}, {"crop": (8, 8)}])
def test_weights_go_with_their_pixels(settings: dict[str, Any]) -> None:
    data = under(coded(weight=Ten(), **settings))
    for examples in seen(data).values():
        for example in examples:
            assert example["weight"].dtype == torch.float32
            assert torch.equal(example["weight"], 1 + 9.0 * example["target"][0])
    for batch in data.val_dataloader():
        assert torch.equal(batch["weight"], 1 + 9.0 * batch["target"][:, 0])


def test_weights_and_copies_are_of_the_size_the_network_sees() -> None:
    preprocess = Preprocess(channels=1, crop=(16, 16), resize=(8, 8))
    data = under(coded(weight=Ten(), copies=2), preprocess)
    for examples in seen(data).values():
        assert examples[0]["image"].shape == (1, 8, 8)
        assert torch.equal(examples[0]["weight"], 1 + 9.0 * examples[0]["target"][0])


def test_twins_in_different_parts_are_refused() -> None:
    source = Coded(count=6, twins=range(6))
    with pytest.raises(UserError, match=r"coded: 1 group\(s\) of identical images .* \(such as c0"):
        under(coded(source))
    with pytest.warns(UserWarning, match="identical images lie in more than one part"):
        under(coded(source, duplicates="allow"))


def test_real_tiles_of_real_layout(dsb_root: Path) -> None:
    split = RandomSplit(val=2, test=2)
    data = DSB2018DataModule(
        str(dsb_root), split, crop=None, division=2, copies=2, num_workers=0, seed=0, batch_size=4
    )
    under(data, Preprocess())
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 40) and batch["target"].shape == (4, 1, 32, 40)


def test_corrections_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "corrections.yaml"
    path.write_text("drop: [c1]\nprefer: {c0: c2}\n")
    data = under(coded(Coded(empty=[2]), corrections=str(path)))
    assert sorted(data.split.train + data.split.val + data.split.test) == ["c0", "c2", "c3", "c4"]
    labels = data.raw[data._places["c0"]].labels
    assert labels is not None and not labels.any()  # c2's, which is empty
    path.write_text("drop: [c9]\n")
    with pytest.raises(UserError, match=r"corrections\.yaml: .*c9"):
        under(coded(corrections=str(path)))
