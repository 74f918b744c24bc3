"""What a training measures of itself: each number against one computed another way."""

import json
import resource
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

from segmentation.io.images import read_image
from segmentation.metrics import pixel_metrics
from segmentation.metrics.functional import auroc_from_histogram
from segmentation.training.tracking import CURVES, Tracking, best_of
from tests import tiny


class Data(LightningDataModule):
    """Six training batches of two images, five of one to validate on; the images shown are gray."""

    def train_dataloader(self) -> Any:
        return tiny.loader(*(tiny.batch(seed=i) for i in range(6)))

    def val_dataloader(self) -> Any:
        return tiny.loader(*(tiny.batch(1, seed=i, names=name) for i, name in enumerate("abcde")))

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name == "c":  # as if it were a copy
            raise KeyError(name)
        return np.full((16, 24, 1), ord(name), np.uint8), np.zeros((16, 24), bool)


class Recorder(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "train/grad_norm" in metrics:
            assert step is not None
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
    settings: dict[str, Any] = {
        "logger": recorder, "callbacks": [tracking, norms], "log_every_n_steps": 2,
        "gradient_clip_val": 1e-3, "num_sanity_val_steps": 2, **more,
    }  # fmt: skip
    tiny.trainer(**settings).fit(tiny.task(), datamodule=Data())
    return recorder, norms.seen


def test_the_norm_of_the_gradients_before_they_are_clipped(tmp_path: Path) -> None:
    recorder, norms = trained(tmp_path, Tracking(tmp_path))
    assert [step for step, _ in recorder.rows] == [1, 3, 5]
    assert [row["train/grad_norm"] for _, row in recorder.rows] == pytest.approx(norms[1::2])
    assert min(norms) > 1e-3  # so that they were clipped
    assert all(row["memory/cpu_gib"] > 0.05 for _, row in recorder.rows)
    assert not any("memory/gpu_gib" in row for _, row in recorder.rows)


def test_accumulated_gradients_are_logged_once_a_step(tmp_path: Path) -> None:
    recorder, norms = trained(
        tmp_path, Tracking(tmp_path), accumulate_grad_batches=2, log_every_n_steps=1
    )
    assert [step for step, _ in recorder.rows] == [0, 1, 2]
    assert [row["train/grad_norm"] for _, row in recorder.rows] == pytest.approx(norms)


def test_speed_counts_loading_and_no_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def wait(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    tracking = Tracking(tmp_path)
    trainer: Any = SimpleNamespace(world_size=3, loggers=[recorder := Recorder()], global_step=1)
    task: Any = SimpleNamespace(device=torch.device("cpu"))
    batch: Any = {"image": torch.zeros(4, 3, 8, 8)}
    tracking.on_fit_start(trainer, task)
    wait(100)  # until the first epoch
    tracking.on_train_epoch_start(trainer, task)
    for log in (False, True):
        wait(0.25)
        tracking._norm = torch.tensor(2.0) if log else None
        tracking.on_train_batch_end(trainer, task, None, batch, 0)
    wait(50)  # a validation
    tracking.on_validation_end(trainer, task)
    wait(2)
    tracking._norm = torch.tensor(2.0)
    tracking.on_train_batch_end(trainer, task, None, batch, 0)
    speeds = [row["train/images_per_second"] for _, row in recorder.rows]
    assert speeds == [2 * 4 * 3 / 0.5, 4 * 3 / 2]
    assert tracking.spent["images"] == 36 and tracking.spent["train_seconds"] == 2.5


def test_the_same_images_every_few_epochs(tmp_path: Path) -> None:
    trained(tmp_path, Tracking(tmp_path, pictures=3, every=2), max_epochs=4)
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == [
        f"{place}_{name}_epoch{epoch:04}.png"
        for place, name in ((1, "a"), (2, "c"), (3, "e"))
        for epoch in (0, 2)
    ]
    picture = read_image(tmp_path / "validation/3_e_epoch0002.png")
    assert picture.shape == (16, 24 + 4 + 24, 3) and (picture[:, :24] == ord("e")).all()
    copy = read_image(tmp_path / "validation/2_c_epoch0002.png")
    seen = tiny.batch(1, seed=2)["image"][0].permute(1, 2, 0).numpy()
    assert (copy[:, :24] == seen).all()


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    tracking, trainer = Tracking(tmp_path), other()
    trainer.is_global_zero = False
    tracking.setup(trainer, task(), "fit")
    tracking.on_fit_start(trainer, task())
    tracking.on_fit_end(trainer, task())
    assert list(tmp_path.iterdir()) == []


def other() -> Any:
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(
        is_global_zero=True, global_step=12, world_size=3, loggers=[], state=state,
        checkpoint_callback=None,
    )  # fmt: skip


def task(device: str = "cpu") -> Any:
    net = nn.Linear(3, 5)  # 3·5 weights and 5 biases
    return SimpleNamespace(parameters=net.parameters, device=torch.device(device))


def test_what_a_training_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = [100.0, 190.26], [5.0, 7.51]
    monkeypatch.setattr(time, "monotonic", lambda: wall.pop(0))
    monkeypatch.setattr(time, "process_time", lambda: cpu.pop(0))
    tracking = Tracking(tmp_path)
    tracking.on_fit_start(other(), task())
    tracking.spent |= {"images": 600.0, "train_seconds": 80.0}
    tracking.on_fit_end(other(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    peak = found.pop("peak_memory_bytes")
    assert found == {
        "fit_seconds": 90.3,
        "cpu_seconds": 2.5,
        "images_per_second": 7.5,
        "steps": 12,
        "parameters": 20,
        "device": "cpu",
        "processes": 3,
    }
    # With torch loaded a process holds between 100 MB and 100 GB: a wrong unit is a thousandfold.
    assert 1e8 < peak < 1e11


def test_an_interrupted_training_says_what_it_cost_so_far(tmp_path: Path) -> None:
    tracking = Tracking(tmp_path)
    tracking.on_exception(other(), task(), ValueError())  # before it began
    assert not (tmp_path / "resources.json").exists()
    tracking.on_fit_start(other(), task())
    tracking.on_exception(other(), task(), KeyboardInterrupt())
    assert json.loads((tmp_path / "resources.json").read_text())["images_per_second"] is None


def test_a_training_that_goes_on_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first, second = Tracking(tmp_path), Tracking(tmp_path)
    first.on_fit_start(other(), task())
    first.spent |= {"images": 30.0, "train_seconds": 6.0}
    now = 40.0
    second.load_state_dict(first.state_dict())
    assert second.spent["fit_seconds"] == 30
    now = 1000.0
    second.on_fit_start(other(), task())
    now = 1005.0
    second.on_fit_end(other(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    assert found["fit_seconds"] == 35 and found["images_per_second"] == 5


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_memory_is_in_bytes_on_every_system(
    system: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = Tracking(tmp_path)
    tracking.on_fit_start(other(), task())
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7000))
    monkeypatch.setattr("segmentation.training.tracking.sys", SimpleNamespace(platform=system))
    tracking.on_fit_end(other(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    assert found["peak_memory_bytes"] == 7000 * unit


def test_memory_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    tracking, trainer, recorder = Tracking(tmp_path), other(), Recorder()
    trainer.loggers = [recorder]
    tracking.on_fit_start(trainer, task("cuda"))
    tracking._norm = torch.tensor(1.0)
    batch: Any = {"image": torch.zeros(2, 3, 8, 8)}
    tracking.on_train_batch_end(trainer, task("cuda"), None, batch, 0)
    assert recorder.rows[0][1]["memory/gpu_gib"] == 3
    tracking.on_fit_end(trainer, task("cuda"))
    found = json.loads((tmp_path / "resources.json").read_text())
    assert found["peak_gpu_memory_bytes"] == 3 * 2**30 and found["device"] == "a GPU"


def test_which_values_are_the_best() -> None:
    found = best_of(tiny.task())
    assert found["val/iou"] == found["val/auroc"] == found["val/image_ap50"] == "max"
    assert found["val/loss"] == found["train/loss_epoch"] == "min"
    assert "val/count_error" not in found  # neither high nor low


def test_the_curves_of_a_test_are_those_of_its_auroc(tmp_path: Path) -> None:
    metrics: Any = pixel_metrics().clone(prefix="test/")
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.random((2, 9, 9)) < 0.4)
    metrics.update((torch.from_numpy(rng.random((2, 9, 9))).float() + truth) / 2, truth)
    tested: Any = SimpleNamespace(test_metrics=metrics)
    Tracking(tmp_path).on_test_epoch_end(other(), tested)
    counts = json.loads((tmp_path / CURVES).read_text())
    hist = torch.tensor([counts["foreground"], counts["background"]])
    assert hist.sum() == 2 * 9 * 9 and hist[0].sum() == truth.sum()
    assert auroc_from_histogram(hist) == metrics.compute()["test/auroc"]
