"""Fixed copies, tiles, blank and empty images; every pixel of a stitched answer in its place."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentation.data.datamodule import DataFiles
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.samplers import Sampling
from segmentation.data.splits import RandomSplit
from segmentation.errors import UserError
from segmentation.experiments.studies import GridTiles, SameTiles, StudyDataModule
from segmentation.inference import network_stride, padded
from segmentation.models import SmallUNet, UNetPlusPlus
from segmentation.targets.border_weights import WeightMap


@dataclass
class Coded(SegmentationDataset):
    """Images whose every pixel tells where it is; one object in the top left corner."""

    count: int = 5
    empty: Sequence[int] = ()
    name: str = "coded"

    def index(self) -> Sequence[Record]:
        return [Record(f"c{i:02}", f"{i}.png", (), repr(self)) for i in range(self.count)]

    def read(self, record: Record) -> Sample:
        i = int(record.id[1:])
        image = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24, 1) + np.uint8(7 * i)
        labels = np.zeros((16, 24), np.int32)
        if i not in self.empty:
            labels[:4, :6] = 1
        return Sample(record.id, image, labels)


class Ten(WeightMap):
    """Weighs objects ten times as much."""

    key = "ten"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        return np.where(labels > 0, 10, 1).astype(np.float32)


def study(source: Coded | None = None, seed: int = 0, **settings: Any) -> StudyDataModule:
    """Set up for a training."""
    defaults: dict[str, Any] = {
        "split": RandomSplit(val=1, test=1, stratify=False),
        "preprocess": Preprocess(channels=1, intensity="divide"),
        "sampling": Sampling(seed=seed),
        "crop": None,
        "augmentation": "flips",
    }
    one: dict[str, Any] = {"batch_size": 1, "num_workers": 0}
    data = StudyDataModule(source or Coded(), **one, **(defaults | settings))
    data.prepare_data()
    data.setup("fit")
    return data


def seen(data: StudyDataModule, epoch: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Every example of an epoch, by sample id."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in loader:
        found.setdefault(batch["id"][0], []).append({k: v[0] for k, v in batch.items()})
    return found


def original(data: StudyDataModule, name: str) -> tuple[np.ndarray, np.ndarray]:
    sample = data.prepared[data._places[name.partition("#")[0]]]
    assert sample.labels is not None
    return sample.image, sample.labels


def test_copies_are_the_same_every_epoch_and_the_first_is_the_image_itself() -> None:
    data = study(copies=4)
    first, later = seen(data), seen(data, 3)
    assert first.keys() == later.keys() and len(first) == 3 * 4
    for name, (example,) in first.items():
        assert torch.equal(example["image"], later[name][0]["image"])
        assert torch.equal(example["target"], later[name][0]["target"])
        image, labels = original(data, name)
        if "#" not in name:
            assert torch.equal(example["image"][0], torch.tensor(image[..., 0]))
            assert torch.equal(example["target"][0] > 0, torch.tensor(labels > 0))
        else:  # flipped: the same pixels, elsewhere, and the mask with them
            assert sorted(example["image"].flatten().tolist()) == sorted(image.flatten())
            moved = example["image"][0][example["target"][0] > 0]
            assert sorted(moved.tolist()) == sorted(image[labels > 0].flatten())

    def images(**settings: Any) -> bytes:
        found = seen(study(copies=4, **settings))
        return b"".join(e[0]["image"].numpy().tobytes() for _, e in sorted(found.items()))

    assert images() == images() != images(seed=1) and images() != images(augmentation="light")


def test_copies_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        for threads in (1, 8):
            monkeypatch.setattr("segmentation.data.cache.usable_cores", lambda n=threads: n)
            files = DataFiles(cache=str(tmp_path / str(threads)))
            data = study(Coded(20), copies=12, augmentation="nuclei", files=files)
            found.append([data._training.samples[i].image for i in range(len(data._training))])
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_copies_are_cropped_once_for_all_and_others_anew() -> None:
    data = study(copies=3, crop=(8, 8), zoom=(0.7, 1.4))
    first, later = seen(data), seen(data, 1)
    for name, (example,) in first.items():
        assert example["image"].shape == (1, 8, 8)
        assert torch.equal(example["image"], later[name][0]["image"])
    first, later = (seen(data, epoch) for data in [study(Coded(9))] for epoch in (0, 1))
    assert any(not torch.equal(first[n][0]["image"], later[n][0]["image"]) for n in first)


def test_validation_copies() -> None:
    data = study(copies=3, copies_in_val=True)
    (name,) = data.split.val
    batches = list(data.val_dataloader())
    assert [b["id"][0] for b in batches] == [name, f"{name}#1", f"{name}#2"]
    assert all((b["labels"] > 0).sum() == 24 for b in batches)
    assert len(list(study(copies=3).val_dataloader())) == 1


@pytest.mark.parametrize("copies", [None, 2])
def test_tiles_cover_each_image_once(copies: int | None) -> None:
    data = study(division=4, copies=copies, augmentation="none")
    found = seen(data)
    assert len(found) == 3 * (copies or 1)
    for name, tiles in found.items():
        pixels = torch.cat([t["image"].flatten() for t in tiles]).tolist()
        assert len(tiles) == 16 and Counter(pixels) == Counter(original(data, name)[0].flatten())
        assert all(t["image"].shape == (1, 4, 6) for t in tiles)
        assert sum(bool(t["target"].any()) for t in tiles) == 1


def test_blank_tiles_can_be_dropped_and_blank_images_added() -> None:
    dropped = seen(study(division=4, blank="drop", augmentation="none"))
    assert [len(tiles) for tiles in dropped.values()] == [1, 1, 1]
    assert all(tiles[0]["target"].all() for tiles in dropped.values())
    data = study(blank="add", copies=2)
    added = seen(data)
    assert len(added) == 3 * 3
    for name in data.split.train:
        (blank,) = added[f"{name}#blank"]
        image, labels = original(data, name)
        assert not blank["target"].any()
        assert set(blank["image"].flatten().tolist()) <= set(image[labels == 0].flatten())
    assert len(seen(study(blank="add"))) == 3 * 2


def test_empty_images_are_kept_or_dropped() -> None:
    source = Coded(count=12, empty=range(1, 12, 2))
    split = RandomSplit(val=4, test=4, stratify=False)
    every: Any = ("keep", "drop", "drop_everywhere")
    with pytest.raises(UserError, match="no image in train"):
        study(Coded(empty=range(5)), empty="drop")
    kept, dropped, everywhere = (study(source, empty=e, split=split).split for e in every)
    full = {f"c{i:02}" for i in range(0, 12, 2)}
    assert set(dropped.train) == set(kept.train) & full
    assert (dropped.val, dropped.test) == (kept.val, kept.test)
    assert not {*everywhere.val, *everywhere.test} - full


@pytest.mark.parametrize("settings", [{}, {"copies": 3}, {"division": 2}, {"crop": (8, 8)}])
@pytest.mark.parametrize("shrunk", [False, True])
def test_weights_go_with_their_pixels(settings: dict[str, Any], shrunk: bool) -> None:
    if shrunk:
        settings = settings | {"preprocess": Preprocess(1, crop=(16, 16), resize=(8, 8))}
    data = study(weight=Ten(), **settings)
    for examples in seen(data).values():
        for example in examples:
            assert example["weight"].dtype == torch.float32
            assert torch.equal(example["weight"], 1 + 9.0 * example["target"][0])
    for batch in data.val_dataloader():
        assert torch.equal(batch["weight"], 1 + 9.0 * batch["target"][:, 0])


@pytest.mark.parametrize("score_at", ["native", "network"])
def test_score_at(score_at: Any) -> None:
    data = study(score_at=score_at, preprocess=Preprocess(1, resize=(8, 8)))
    (batch,) = data.val_dataloader()
    (name,) = data.split.val
    size = (16, 24) if score_at == "native" else (8, 8)
    assert batch["image"].shape == batch["target"].shape == (1, 1, 8, 8)
    assert batch["labels"].shape == (1, *size) == (1, *data.pixels(name).shape[:2])
    image, truth, _ = data.shown(name)
    assert image.shape == (*size, 1) and truth.shape == size
    np.testing.assert_array_equal(truth, batch["labels"][0].numpy())
    # What the baselines look at.
    np.testing.assert_array_equal(data.truth(name), truth)
    assert data.pixels(name).shape[:2] == size


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"copies": 0}, r"data\.copies: 0 must be positive"),
        ({"division": 0}, r"data\.division: 0 must be positive"),
        ({"division": 2, "crop": 16}, r"data\.division: 2 cuts whole images into tiles; set data"),
        ({"division": 5}, r"data\.division: 5×5 tiles do not divide c\d\d of 16×24"),
        ({"source": Coded(empty=range(5)), "blank": "drop"}, "data.blank: drop leaves nothing to"),
        ({"score_at": "network"}, r"data\.score_at: network needs model\.preprocess\.resize"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^{says}"):
        study(**settings)


class Spy(nn.Module):
    """Remembers what it was shown and answers with two channels of the same."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return torch.cat([image, -image], dim=1)


def test_tiles_of_training_and_of_evaluation_must_be_the_same() -> None:
    tiled, net = SimpleNamespace(division=2), SimpleNamespace(net=GridTiles(nn.Identity(), 2))
    SameTiles().on_train_start(SimpleNamespace(datamodule=tiled), net)
    with pytest.raises(UserError, match=r"data\.division is 1 but model\.net\.division is 2"):
        SameTiles().on_train_start(SimpleNamespace(datamodule=None), net)


@pytest.mark.parametrize("division", [1, 2, 3, 8])
def test_tiles_come_row_by_row_and_are_stitched_in_their_places(division: int) -> None:
    spy, image = Spy(), torch.randn(2, 3, 5 * division, 2 * division)
    result = GridTiles(spy, division).eval()(image)
    assert torch.equal(result, torch.cat([image, -image], dim=1))
    grid = range(division)
    places = [(b, 5 * y, 2 * x) for b in (0, 1) for y in grid for x in grid]
    windows = [image[b, :, y : y + 5, x : x + 2] for b, y, x in places]
    assert torch.equal(torch.cat(spy.seen), torch.stack(windows))


def test_each_tile_is_answered_as_if_alone() -> None:
    torch.manual_seed(0)
    plain = SmallUNet(1, 3).eval()
    net = GridTiles(plain, 2).eval()
    image = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        whole = net(image)
        for y, x in ((0, 0), (0, 24), (16, 0), (16, 24)):
            window = (..., slice(y, y + 16), slice(x, x + 24))
            torch.testing.assert_close(whole[window], plain(image[window]))
    with pytest.raises(ValueError, match=r"^2x2 tiles do not divide an image of 7x8"):
        net(torch.zeros(1, 1, 7, 8))


@pytest.mark.parametrize("tile_batch", [1, 3, 16, 100])
def test_no_more_tiles_at_once(tile_batch: int) -> None:
    spy = Spy()
    image = torch.randn(2, 1, 8, 8)
    result = GridTiles(spy, 4, tile_batch).eval()(image)
    assert torch.equal(result, torch.cat([image, -image], dim=1))
    counts = [len(tiles) for tiles in spy.seen]
    assert sum(counts) == 32 and max(counts) == min(tile_batch, 32)


def test_padding_enlarges_all_tiles_alike_and_training_shows_tiles_already() -> None:
    """520×696 in 8×8 of a network of stride 4: 544×704, tiles of 68×88 instead of 65×87."""
    spy = Spy()
    net = GridTiles(spy, 8)
    image = torch.randn(1, 1, 520, 696)
    assert padded(net.eval(), image, net.stride).shape == (1, 2, 520, 696)
    assert {tuple(tiles.shape[-2:]) for tiles in spy.seen} == {(68, 88)}
    net.train()(image)
    assert spy.seen[-1] is image
    heads = GridTiles(UNetPlusPlus(1, width=2, depth=3), 2)
    outputs = heads.train()(torch.randn(2, 1, 8, 8))
    assert isinstance(outputs, list) and len(outputs) == 2
    assert heads.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_what_it_tells_of_the_network_and_its_weights() -> None:
    class Library(nn.Module):
        """What the networks of a library tell of themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Identity()
            self.encoder.in_channels, self.encoder.output_stride = 3, 16  # type: ignore[assignment]

    for net, told in (
        (SmallUNet(1, 3), (1, 3, 8 * 4, 4)),
        (Library(), (3, None, 8 * 16, 16)),
        (nn.Identity(), (None, None, 8 * 32, 32)),
    ):
        tiles = GridTiles(net, 8)
        assert (tiles.in_channels, tiles.classes, tiles.stride, tiles.train_stride) == told
        assert network_stride(tiles) == tiles.stride
        assert list(tiles.state_dict()) == [f"tile_net.{name}" for name in net.state_dict()]
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        GridTiles(nn.Identity(), 0)
