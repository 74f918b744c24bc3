"""From files to batches: the same for any number of workers and processes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segmentation.data.datamodule import DataFiles, SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Record, Sample
from segmentation.data.samplers import Sampling
from segmentation.data.splits import ListSplit, RandomSplit
from segmentation.datasets.dsb2018 import DSB2018DataModule
from segmentation.datasets.folder import FolderDataModule
from segmentation.errors import UserError
from segmentation.targets import Foreground
from tests.errors import refuses

# Since Python 3.12 a process with threads warns when it forks; PyTorch's loaders fork.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Example = tuple[bytes, bytes]


@dataclass
class Made:
    """Images made from nothing: one a size and kind, each of one gray level."""

    sizes: Sequence[tuple[int, int]]
    kinds: Sequence[str] = ()
    without_mask: Sequence[int] = ()
    empty: Sequence[int] = ()
    name: str = "made"
    version: int = 1

    def index(self) -> Sequence[Record]:
        stamp = repr(self)  # another set is another cache
        return [Record(f"m{i:02}", f"{i}.png", (), stamp) for i in range(len(self.sizes))]

    def read(self, record: Record) -> Sample:
        i = int(record.id[1:])
        image = np.full((*self.sizes[i], 1), 10 * i, np.uint8)
        labels = None if i in self.without_mask else np.eye(*self.sizes[i], dtype=np.int32)
        if labels is not None and i in self.empty:
            labels[:] = 0
        kind = self.kinds[i] if self.kinds else ""
        return Sample(record.id, image, labels, "", kind)


def made(*sizes: tuple[int, int], **settings: Any) -> SegmentationDataModule:
    named = ("kinds", "without_mask", "empty")
    about = {name: settings.pop(name) for name in named if name in settings}
    split = RandomSplit(val=1, test=0, stratify=False)
    defaults: dict[str, Any] = {"split": split, "num_workers": 0}
    return SegmentationDataModule(Made(sizes, **about), **(defaults | grouped(settings)))


def grouped(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of the sampling in their group."""
    names = ("balance", "balance_by", "balance_empty", "length", "seed")
    own = {name: settings.pop(name) for name in names if name in settings}
    return {**settings, "sampling": Sampling(**own)}


def dsb(root: Path, **settings: Any) -> DSB2018DataModule:
    split = RandomSplit(val=2, test=2)
    defaults: dict[str, Any] = {"split": split, "crop": 32, "num_workers": 0}
    return DSB2018DataModule(str(root), **(defaults | grouped(settings)))


def under(
    data: SegmentationDataModule,
    stage: str | None = "fit",
    rank: int = 0,
    world: int = 1,
    preprocess: Preprocess | None = None,
) -> SegmentationDataModule:
    """Set up as process ``rank`` of ``world``, for a task with this preprocessing."""
    data.preprocess = preprocess or Preprocess()
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    data.prepare_data()
    data.setup(stage)
    return data


def epoch(loader: DataLoader[Any], number: int = 0) -> list[Any]:
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return list(loader)


def examples(batches: list[Any]) -> list[Example]:
    """The bytes of every image and target, in order."""
    return [
        (image.numpy().tobytes(), target.numpy().tobytes())
        for batch in batches
        for image, target in zip(batch["image"], batch["target"], strict=True)
    ]


def test_what_a_batch_holds(dsb_root: Path) -> None:
    data = under(dsb(dsb_root, batch_size=3, crop=(32, 48)))
    batches = epoch(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 8 // 3  # the incomplete one is dropped
    batch = batches[0]
    assert batch["image"].shape == (3, 3, 32, 48) and batch["image"].dtype == torch.uint8
    assert batch["target"].shape == (3, 1, 32, 48) and batch["target"].dtype == torch.uint8
    assert set(batch) == {"image", "target", "id", "kind"}
    assert set(batch["id"]) <= set(data.split.train)
    assert {"fluorescence"} & set(batch["kind"])
    batches = list(data.val_dataloader())
    assert [batch["id"] for batch in batches] == [[name] for name in data.split.val]
    for batch in batches:
        assert batch["image"].shape == (1, 3, 64, 80) and batch["target"].shape == (1, 1, 64, 80)
        assert batch["labels"].shape == (1, 64, 80) and batch["labels"].dtype == torch.int32
        assert ((batch["labels"] > 0) == (batch["target"][:, 0] > 0)).all()
        assert batch["labels"].max() > 1
    data = under(dsb(dsb_root), "test")
    assert [batch["id"][0] for batch in data.test_dataloader()] == list(data.split.test)


@pytest.mark.parametrize("settings", [{}, {"balance": 0.5, "length": 20, "zoom": (0.6, 1.6)}])
def test_workers_change_nothing(dsb_root: Path, settings: dict[str, Any]) -> None:
    found = []
    for workers in (0, 1, 2):
        data = dsb(dsb_root, num_workers=workers, batch_size=2, augmentation="nuclei", **settings)
        loader = under(data).train_dataloader()
        epochs = [examples(epoch(loader, number)) for number in (0, 1, 0)]
        assert epochs[0] == epochs[2] != epochs[1]  # workers that persist see the new epoch
        assert not set(epochs[0]) & set(epochs[1])
        found.append(epochs)
    assert found[0] == found[1] == found[2]


def test_seeds(dsb_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(seed: int | None) -> list[Example]:
        return examples(epoch(under(dsb(dsb_root, seed=seed)).train_dataloader()))

    assert first(1) == first(1) != first(2)
    assert first(None) == first(0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")  # what seed_everything sets
    assert first(None) == first(2)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_processes_change_nothing(dsb_root: Path, balance: float) -> None:
    def batches(rank: int, world: int) -> list[list[Example]]:
        data = dsb(dsb_root, batch_size=4 // world, balance=balance, length=16)
        loader = under(data, rank=rank, world=world).train_dataloader()
        return [examples([batch]) for batch in epoch(loader, 1)]

    alone, *both = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(alone) == len(both[0]) == len(both[1]) == 4
    for whole, left, right in zip(alone, *both, strict=True):
        assert sorted(whole) == sorted(left + right)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_covers_each_sample_once(dsb_root: Path, world: int) -> None:
    seen: Counter[str] = Counter()
    for rank in range(world):
        data = under(dsb(dsb_root, split=RandomSplit(val=4, test=4)), rank=rank, world=world)
        for loader in (data.val_dataloader(), data.test_dataloader()):
            seen.update(batch["id"][0] for batch in loader)
    assert seen == Counter(dict.fromkeys((*data.split.val, *data.split.test), 1))


def test_repeats_are_augmented_anew(dsb_root: Path) -> None:
    data = under(dsb(dsb_root, length=32, batch_size=1))
    found = examples(epoch(data.train_dataloader()))
    assert len(found) == 32 and len(set(found)) == 32


def test_lengths(dsb_root: Path) -> None:
    def steps(**settings: Any) -> int:
        return len(under(dsb(dsb_root, **settings)).train_dataloader())

    assert steps(batch_size=4) == 2
    assert steps(batch_size=3) == 2
    assert steps(batch_size=100) == 1  # rather no more than there are, than no step at all
    assert steps(batch_size=4, length=40) == 10
    both = [under(dsb(dsb_root, batch_size=2), rank=rank, world=2) for rank in range(2)]
    assert [len(data.train_dataloader()) for data in both] == [2, 2]


def test_weights_of_draws() -> None:
    def entry(kind: str, height: int, objects: int) -> Any:
        image = (0, (height, 10, 1), "|u1")
        return SimpleNamespace(kind=kind, image=image, objects=objects, unannotated=0)

    entries = [entry("a", 10, 1), entry("a", 10, 0), entry("b", 40, 0)]
    assert Sampling().weights(entries) is None
    assert Sampling(1).weights(entries) == [50, 50, 400]
    assert Sampling(0.5).weights(entries) == pytest.approx([50**0.5, 50**0.5, 20])
    assert Sampling(1, True).weights(entries) == pytest.approx([1, 50 / 450, 400 / 450])
    assert Sampling(0, True).weights(entries[1:]) == [1, 1]  # nothing to balance


def test_sources_are_balanced_where_all_are_known(dsb_root: Path) -> None:
    data = under(dsb(dsb_root, balance=1.0, balance_by="source"))
    with pytest.raises(UserError, match=r"balance_by source: \d+ of \d+ training images have no"):
        data.drawn()
    known = {name: f"s{place == 0}" for place, name in enumerate(data.split.train)}
    data.sources = {entry.id: known.get(entry.id, "") for entry in data.raw.entries}
    drawn = data.drawn()
    assert drawn is not None and drawn[0] == pytest.approx(sum(drawn[1:]), rel=0.5)


def test_images_with_and_without_objects_are_balanced() -> None:
    """Where a crop of the preprocessing cuts all objects off, an image still counts as it is."""
    data = made(*[(20, 30)] * 9, empty=[0, 1], crop=8, length=2000, balance_empty=True)
    under(data, preprocess=Preprocess(crop=(8, 12)))
    empty = [entry.objects == 0 for entry in data.parts["train"].entries]
    drawn = Counter(empty[draw.index] for draw in data.train_dataloader().sampler)
    assert sum(empty) in (1, 2) and abs(drawn[True] / 2000 - 0.5) < 0.04


def test_twins_in_different_parts_are_refused() -> None:
    class Twins(Made):
        def read(self, record: Record) -> Sample:
            return replace(super().read(record), image=np.zeros((*self.sizes[0], 1), np.uint8))

    def twins(**files: Any) -> SegmentationDataModule:
        source = Twins([(20, 30)] * 4, name="twins")
        return SegmentationDataModule(source, RandomSplit(1, 1), crop=8, files=DataFiles(**files))

    refuses(r"twins: 1 group\(s\) of identical .* as m00 and m01", under, twins())
    with pytest.warns(UserWarning, match="identical images lie in more than one part"):
        under(twins(allow=["duplicates"]))


def test_corrections_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "corrections.yaml"
    path.write_text("drop: [m01]\nprefer: {m00: m02}\n")

    def corrected() -> SegmentationDataModule:
        files = DataFiles(corrections=str(path))
        return made(*[(20, 30)] * 5, empty=[2], crop=8, files=files)

    data = under(corrected())
    assert [entry.id for entry in data.raw.entries] == ["m00", "m02", "m03", "m04"]
    labels = data.raw[0].labels
    assert labels is not None and not labels.any()  # m02's, which is empty
    path.write_text("drop: [m09]\n")
    refuses(r"corrections\.yaml: .*m09", under, corrected())


def test_a_fold_is_tested(dsb_root: Path) -> None:
    modules = [dsb(dsb_root, split=RandomSplit(2, 3), fold=f"{k}/4") for k in range(4)]
    tested = [b["id"][0] for data in modules for b in under(data, "test").test_dataloader()]
    open_to_all = [e.id for e in modules[0].raw.entries if e.subset != "test"]
    assert sorted(tested) == sorted(open_to_all) and len(tested) == 12
    assert all(len(data.split.val) == 2 for data in modules)
    with pytest.raises(UserError, match=r"^split: 12 sample\(s\) cannot make 13 folds; ask for 12"):
        under(dsb(dsb_root, fold="0/13"))


def test_whole_images() -> None:
    data = under(made(*[(20, 30)] * 5, crop=None, batch_size=2))
    for batch in epoch(data.train_dataloader()):  # D4 does not turn an oblong
        assert batch["image"].shape == (2, 3, 20, 30) and batch["target"].shape == (2, 1, 20, 30)
    under(made((20, 30), (30, 20), (20, 20), crop=None, batch_size=1))
    mixed = made((20, 30), (30, 20), (20, 20), crop=None)
    refuses(r"data\.crop: null needs images of one size, these have 2", under, mixed)
    under(mixed, preprocess=Preprocess(resize=(16, 16)))


def test_one_channel_without_augmentation_is_a_writable_copy() -> None:
    """Such an image could be handed on as it lies in the read-only file."""
    data = made(*[(20, 30)] * 4, crop=None, augmentation="none", batch_size=1)
    under(data, preprocess=Preprocess(channels=1, intensity="divide"))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            batch["image"].fill_(7)
    assert all(sample.image.max() in (0, 10, 20, 30) for sample in data.prepared)


def test_scores_are_of_the_image_as_read(folder_root: Path) -> None:
    data = FolderDataModule(str(folder_root), mask_type="labels", crop=16, num_workers=0)
    under(data, "test", preprocess=Preprocess(channels=1, crop=(40, 48), resize=(20, 24)))
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == batch["target"].shape == (1, 1, 20, 24)
    assert batch["labels"].shape == (1, 48, 64)
    (name,) = batch["id"]
    image, truth, classes = data.shown(name)
    assert image.shape == (48, 64, 1) and classes is None
    np.testing.assert_array_equal(truth, batch["labels"][0].numpy())
    assert data.pixels(name).dtype == np.uint16 and data.pixels(name).shape[:2] == (48, 64)


def test_task_decides_on_preprocessing_and_target(dsb_root: Path) -> None:
    class Inverse(Foreground):
        def encode(self, labels: np.ndarray) -> Tensor:
            return 1 - super().encode(labels)

    data = dsb(dsb_root, preprocess=Preprocess(channels=1), target=Inverse())
    data.setup("validate")
    (batch, _) = data.val_dataloader()
    assert batch["image"].shape[1] == 1
    assert ((batch["target"][:, 0] == 0) == (batch["labels"] > 0)).all()


def test_a_target_of_ones_own_gets_int32(dsb_root: Path) -> None:
    class Checked(Foreground):
        def encode(self, labels: np.ndarray) -> Tensor:
            assert labels.dtype == np.int32
            return super().encode(labels)

    data = dsb(dsb_root, preprocess=Preprocess(channels=1), target=Checked())
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["target"].any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"crop": 0}, r"data\.crop: 0 must be positive"),
        ({"crop": (32, -1)}, r"data\.crop: \(32, -1\)"),
        ({"zoom": (1.5, 0.5)}, r"data\.zoom: \(1\.5, 0\.5\) must be a range of positive"),
        ({"zoom": (0.0, 1.0)}, r"data\.zoom"),
        (
            {"crop": None, "zoom": (0.5, 2.0)},
            r"data\.zoom: .* must be \[1, 1\] without a data\.crop",
        ),
        ({"balance": -1.0}, r"data\.sampling\.balance"),
        ({"length": 0}, r"data\.sampling\.length: 0 must be positive"),
        ({"fold": "0/1"}, r"data\.fold: 0/1 must be K/N, N at least 2 and K from 0 to N - 1"),
        ({"fold": "5/5"}, r"data\.fold: 5/5"),
        ({"fold": "-1/3"}, r"data\.fold: -1/3"),
        ({"batch_size": 0}, r"data\.batch_size: 0 must be positive"),
        ({"num_workers": -1}, r"data\.num_workers"),
        ({"seed": -1}, r"data\.sampling\.seed"),
        ({"augmentation": "lots"}, "augmentation: no recipe is called 'lots'; choose from"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    refuses(f"^{says}", made, (20, 30), **settings)


def test_data_and_settings_that_do_not_fit() -> None:
    sizes = [(20, 30)] * 4
    with pytest.raises(UserError, match=r"crop: 32×48 is larger than every image \(at most 20×30"):
        under(made(*sizes, crop=(32, 48)))
    under(made(*sizes, crop=(16, 48)))  # one side may be filled up by reflection
    with pytest.raises(UserError, match=r"made: the split leaves no image in val; change data"):
        under(made(*sizes, crop=16, split=RandomSplit(val=0, test=1)))
    refuses(r"the split leaves no image in test", under, made(*sizes, crop=16), "test")
    with pytest.raises(UserError, match=r"1 image\(s\) in val for 2 processes; lower trainer\.dev"):
        under(made(*sizes, crop=16), world=2)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_image_without_truth_is_found_before_training(part: str, tmp_path: Path) -> None:
    names = {name: f"m{i:02}\n" for i, name in enumerate(("train", "val", "test"))}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    place = ["train", "val", "test"].index(part)
    split = ListSplit(*(str(tmp_path / name) for name in names))
    data = made(*[(20, 30)] * 4, crop=16, split=split, without_mask=[place])
    refuses(rf"made: m0{place} is in {part} but has no mask; add it", under, data)
