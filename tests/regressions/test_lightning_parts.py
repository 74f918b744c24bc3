"""Lightning's own callbacks, loggers, profilers and limits do what they do elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from segmentation.checkpoints import read_checkpoint
from tests.regressions.conftest import Result, write_pairs

CALLBACKS = "lightning.pytorch.callbacks"
SMP_UNET = [
    "--model.net=segmentation_models_pytorch.Unet",
    *("--model.net.encoder_name=resnet18", "--model.net.encoder_weights=null"),
]
pytestmark = pytest.mark.filterwarnings(
    "ignore:You requested to overfit",
    "ignore:SWA is currently only supported every epoch",
    "ignore:The provided params to be frozen already exist",
    "ignore:.*could not find the monitored key",
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def trained(
    fit: Callable[..., Result], pairs: Path, tmp_path: Path
) -> Callable[..., tuple[str, Path]]:
    """Train, with callbacks as (name, settings); what was printed, and the run's folder."""

    def command(*typed: str, **callbacks: dict[str, Any]) -> tuple[str, Path]:
        chosen = [
            {"class_path": f"{CALLBACKS}.{name}", "init_args": settings}
            for name, settings in callbacks.items()
        ]
        config = tmp_path / "callbacks.yaml"
        config.write_text(yaml.safe_dump({"trainer": {"callbacks": chosen}}))
        result = fit(pairs, f"--config={config}", "--trainer.log_every_n_steps=1", *typed)
        assert result.status == 0, result.text
        (folder,) = (tmp_path / "runs/t").iterdir()
        return result.text, folder

    return command


def column(folder: Path, name: str) -> list[float]:
    values: list[float] = pd.read_csv(folder / "metrics.csv")[name].dropna().tolist()
    return values


def test_callbacks_that_watch_and_keep(
    trained: Callable[..., tuple[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    _, folder = trained(
        DeviceStatsMonitor={"cpu_stats": True},
        ModelSummary={"max_depth": 1},
        GradientAccumulationScheduler={"scheduling": {0: 3}},
        Timer={"duration": "00:01:00:00"},
        ModelCheckpoint={"monitor": "val/loss", "filename": "second", "save_weights_only": True},
    )
    assert "Trainable params" in caplog.text
    assert any(c.startswith("DeviceStatsMonitor") for c in pd.read_csv(folder / "metrics.csv"))
    assert json.loads((folder / "resources.json").read_text())["steps"] == 1  # of three batches
    assert (folder / "checkpoints/second.ckpt").exists()
    kept = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["callbacks"]
    assert kept[3]["init_args"]["interval"] == "step"  # by default, of a kind of its own


def test_the_learning_rate_that_is_found_is_used(
    trained: Callable[..., tuple[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    finder = {"num_training_steps": 30, "min_lr": 1e-5}
    _, folder = trained("--data.sampling.length=60", LearningRateFinder=finder)
    (found,) = (r.getMessage() for r in caplog.records if "Learning rate set" in r.getMessage())
    # The schedule's peak, after a warm-up of a tenth of the steps.
    assert max(column(folder, "lr-AdamW")) == pytest.approx(float(found.split()[-1]), rel=0.2)
    assert not list(folder.glob(".lr_find*"))


def test_too_few_steps_to_find_a_rate_leave_it(
    trained: Callable[..., tuple[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    _, folder = trained(LearningRateFinder={"num_training_steps": 5})
    assert "Failed to compute suggestion" in caplog.text
    assert max(column(folder, "lr-AdamW")) == pytest.approx(2e-3, rel=0.2)  # the config's


def test_the_batch_size_that_is_found_is_used(trained: Callable[..., tuple[str, Path]]) -> None:
    finder = {"max_trials": 1, "steps_per_trial": 1, "init_val": 3}
    _, folder = trained(BatchSizeFinder=finder)
    assert len(column(folder, "train/loss_step")) == 2  # of three images each, not of two


def test_an_encoder_is_frozen_and_thawed(trained: Callable[..., tuple[str, Path]]) -> None:
    typed = [*SMP_UNET, "--model.net.in_channels=3", "--model.net.classes=1", "--data.crop=32"]
    wider = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=1"]
    _, folder = trained(*typed, *wider, BackboneFinetuning={"unfreeze_backbone_at_epoch": 1})
    state = read_checkpoint(folder / "checkpoints/last.ckpt")
    head, encoder = state["optimizer_states"][0]["param_groups"]
    assert len(encoder["params"]) == 20 and encoder["lr"] < 2e-3  # convolutions of a ResNet-18
    assert head["lr"] < 2e-3


def test_a_network_without_an_encoder_has_nothing_to_freeze(
    fit: Callable[..., Result], pairs: Path
) -> None:
    flat = "--model.net=torch.nn.Conv2d"
    more = [f"--model.net.{k}={v}" for k, v in {"in_channels": 3, "out_channels": 1}.items()]
    backbone = f"--trainer.callbacks+={CALLBACKS}.BackboneFinetuning"
    result = fit(pairs, flat, *more, "--model.net.kernel_size=1", backbone)
    assert result.status == 2
    assert "trainer.callbacks: BackboneFinetuning fails" in result.line


def test_stochastic_weight_averaging(trained: Callable[..., tuple[str, Path]]) -> None:
    swa = {"swa_lrs": 0.01, "swa_epoch_start": 1}
    _, folder = trained("--trainer.max_epochs=2", StochasticWeightAveraging=swa)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["device"] == "cpu"


def test_a_bar_of_another_kind(trained: Callable[..., tuple[str, Path]]) -> None:
    pytest.importorskip("rich")
    text, _ = trained("--trainer.enable_progress_bar=true", RichProgressBar={})
    assert "Testing" in text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--trainer.limit_val_batches=0"],
         "No epoch is best, for val/iou was never logged: the last weights are tested."),
        (["--trainer.check_val_every_n_epoch=5"], "the last weights are tested."),
        (["--trainer.enable_checkpointing=false"], "for no checkpoint is kept: the last weights"),
        (["--trainer.limit_train_batches=0"], "Nothing was trained"),
        (["--trainer.limit_test_batches=0"], "limit_test_batches is 0: nothing was tested."),
        (["--data.split.test=0"], "The split holds no test images: nothing was tested."),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=3"], "best.ckpt"),
        (["--trainer.val_check_interval=.5"], "best.ckpt"),
        (["--trainer.val_check_interval=4", "--trainer.check_val_every_n_epoch=null",
          "--trainer.max_epochs=2"], "best.ckpt"),
        (["--trainer.limit_train_batches=.5", "--trainer.limit_val_batches=1",
          "--trainer.limit_test_batches=1", "--trainer.profiler=simple"], "best.ckpt"),
        (["--trainer.max_time=00:00:00:01", "--trainer.max_epochs=500"], "best.ckpt"),
        (["--trainer.fast_dev_run=true"], ""),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*limit_train_batches=0")
def test_limits(typed: list[str], said: str, pairs: Path, fit: Callable[..., Result]) -> None:
    result = fit(pairs, *typed)
    assert result.status == 0 and said in result.text


def test_overfitting_shows_the_same_windows(trained: Callable[..., tuple[str, Path]]) -> None:
    _, folder = trained(
        *("--trainer.overfit_batches=1", "--trainer.max_epochs=2", "--model.optimizer.lr=0"),
        *("--model.net.batch_norm=false", "--trainer.gradient_clip_val=null"),
    )
    first, second = column(folder, "train/loss_step")
    assert first == second


def test_loggers_beside_the_runs_own(trained: Callable[..., tuple[str, Path]]) -> None:
    logger = "lightning.pytorch.loggers.CSVLogger"
    both = [{"class_path": logger, "init_args": {"save_dir": name}} for name in ("a", "b")]
    trained(f"--trainer.logger={json.dumps(both)}")
    a, b = (next(Path(name).rglob("metrics.csv")).read_text() for name in ("a", "b"))
    assert a == b and "val/iou" in a
