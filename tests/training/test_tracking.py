"""What a training measures of itself: each number against one computed another way."""

import json
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from segmentation.data.resize import resize_image
from segmentation.io.images import read_image
from segmentation.metrics import ScoreTable
from segmentation.metrics.scores import ranking_scores
from segmentation.training import memory
from segmentation.training.tracking import Tracking
from tests import tiny


class Data(LightningDataModule):
    """Six training batches of two images, five of one to validate on; the images shown are gray."""

    def train_dataloader(self) -> Any:
        return tiny.loader(*(tiny.batch(seed=i) for i in range(6)))

    def val_dataloader(self) -> Any:
        return tiny.loader(*(tiny.batch(1, seed=i, names=name) for i, name in enumerate("abcde")))

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray, None]:
        if name == "c":  # as if it were a copy
            raise KeyError(name)
        return np.full((16, 24, 1), ord(name), np.uint8), np.zeros((16, 24), np.int32), None


class Recorder(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "train/grad_norm" in metrics:
            self.rows.append((step, dict(metrics)))


class Norms(Callback):
    """The norm of all gradients, number by number."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        flat = torch.cat([p.grad.flatten().double() for p in pl_module.parameters()])
        self.seen.append(float((flat**2).sum().sqrt()))


def trained(folder: Path, tracking: Tracking, **more: Any) -> tuple[Recorder, list[float]]:
    """Train for an epoch, or as ``more`` says: what was logged, and the norm at each step."""
    recorder, norms = Recorder(), Norms()
    settings: dict[str, Any] = {"logger": recorder, "callbacks": [tracking, norms]}
    settings |= {"log_every_n_steps": 2, "gradient_clip_val": 1e-3, "num_sanity_val_steps": 2}
    tiny.trainer(**settings | more).fit(tiny.task(), datamodule=Data())
    return recorder, norms.seen


@pytest.mark.parametrize(
    ("more", "steps", "every"),
    [({}, [1, 3, 5], 2), ({"accumulate_grad_batches": 2, "log_every_n_steps": 1}, [0, 1, 2], 1)],
    ids=["each batch", "accumulated"],
)
def test_the_norm_of_the_gradients_before_they_are_clipped(
    more: dict[str, Any], steps: list[int], every: int, tmp_path: Path
) -> None:
    recorder, norms = trained(tmp_path, Tracking(tmp_path), **more)
    assert [step for step, _ in recorder.rows] == steps
    logged = [row["train/grad_norm"] for _, row in recorder.rows]
    assert logged == pytest.approx(norms[every - 1 :: every])
    assert min(norms) > 1e-3  # so that they were clipped
    assert all(row["memory/cpu_gib"] > 0.05 for _, row in recorder.rows)
    assert not any("memory/gpu_gib" in row for _, row in recorder.rows)


def test_the_same_images_every_few_epochs(tmp_path: Path) -> None:
    trained(tmp_path, Tracking(tmp_path, pictures=3, every=2), max_epochs=4)
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == [f"{n}_epoch{epoch:04}.png" for n in ("1_a", "2_c", "3_e") for epoch in (0, 2)]
    picture = read_image(tmp_path / "validation/3_e_epoch0002.png")
    size = 16 * 8, 24 * 8  # small images are enlarged
    assert picture.shape[1] == 2 * size[1] + 4
    assert (picture[: size[0], : size[1]] == ord("e")).all()
    copy = read_image(tmp_path / "validation/2_c_epoch0002.png")
    seen = tiny.batch(1, seed=2)["image"][0].permute(1, 2, 0).numpy()
    assert (copy[: size[0], : size[1]] == resize_image(seen, size)).all()


def other(zero: bool = True) -> Any:
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(is_global_zero=zero, global_step=12, world_size=3, loggers=[],
                           state=state, checkpoint_callback=None)  # fmt: skip


def task(device: str = "cpu") -> Any:
    net = nn.Linear(3, 5)  # 3·5 weights and 5 biases
    return SimpleNamespace(parameters=net.parameters, device=torch.device(device))


class Clock:
    """Replaces both clocks; processor time goes at half the speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.now / 2)

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_speed_counts_loading_and_no_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tracking, trainer = Clock(monkeypatch), Tracking(tmp_path), other()
    trainer.loggers = [recorder := Recorder()]
    batch: Any = {"image": torch.zeros(4, 3, 8, 8)}

    def step(seconds: float, log: bool = True) -> None:
        clock.wait(seconds)
        tracking._norm = torch.tensor(2.0) if log else None
        tracking.on_train_batch_end(trainer, task(), None, batch, 0)

    tracking.on_fit_start(trainer, task())
    clock.wait(100)  # until the first epoch
    tracking.on_train_epoch_start(trainer, task())
    step(0.25, log=False)
    step(0.25)
    clock.wait(50)  # a validation
    tracking.on_validation_end(trainer, task())
    step(2)
    speeds = [row["train/images_per_second"] for _, row in recorder.rows]
    assert speeds == [2 * 4 * 3 / 0.5, 4 * 3 / 2]
    assert tracking.spent["images"] == 36 and tracking.spent["train_seconds"] == 2.5


def test_what_a_training_cost_over_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, first, second = Clock(monkeypatch), Tracking(tmp_path), Tracking(tmp_path)
    first.on_exception(other(), task(), ValueError())  # before it began
    assert not (tmp_path / "resources.json").exists()
    first.on_fit_start(other(), task())
    first.on_exception(other(), task(), KeyboardInterrupt())
    assert json.loads((tmp_path / "resources.json").read_text())["images_per_second"] is None
    first.spent |= {"images": 600.0, "train_seconds": 80.0}
    clock.wait(85.26)
    second.load_state_dict(first.state_dict())
    clock.wait(1000)  # until somebody starts it again
    second.on_fit_start(other(), task())
    clock.wait(5)
    second.on_fit_end(other(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    # With torch loaded a process holds between 100 MB and 100 GB: a wrong unit is a thousandfold.
    assert 1e8 < found.pop("peak_memory_bytes") < 1e11
    assert found == {
        **{"fit_seconds": 90.3, "cpu_seconds": 45.1, "images_per_second": 7.5},
        **{"steps": 12, "parameters": 20, "device": "cpu", "processes": 3},
    }


def test_memory_is_in_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7000))
    for system, unit in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", system)
        assert memory.peak_memory() == 7000 * unit
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert 1e8 < memory.peak_memory() < 1e11


def test_the_curves_of_a_test_are_those_of_its_auroc(tmp_path: Path) -> None:
    table = ScoreTable(objects=False)
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.random((2, 9, 9)) < 0.4)
    probs = (torch.from_numpy(rng.random((2, 9, 9))).float() + truth) / 2
    table.update(truth.int(), probs=probs)
    tested: Any = SimpleNamespace(test_table=table)
    Tracking(tmp_path).on_test_epoch_end(other(), tested)
    counts = json.loads((tmp_path / "test_curves.json").read_text())
    hist = np.array([counts["foreground"], counts["background"]])
    assert hist.sum() == 2 * 9 * 9 and hist[0].sum() == truth.sum()
    assert ranking_scores(hist)["auroc"] == table.compute()["auroc"]
