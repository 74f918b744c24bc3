"""W&B: what an offline run keeps, and that nothing it does stops a training."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb

from segmentation.data.sample import Split
from segmentation.evaluation.pictures import Picture
from segmentation.training import loggers
from segmentation.training.loggers import RobustWandbLogger, keep_files, stopped_by_server
from segmentation.training.run_folder import RunRecord
from segmentation.training.tracking import Tracking
from tests import tiny
from tests.experiments.sweep.wandb_server import Server, serving
from tests.helpers import fit, scores
from tests.training.test_tracking import Data

COUNTS = np.array([[0, 1, 3], [3, 1, 0]])


class Failing:
    """A run whose server, disk or quota is gone."""

    id = "x"

    def __getattr__(self, name: str) -> Any:
        raise OSError(28, f"No space left on device: {name}")


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With an account at a server where nobody listens, and nothing of it left afterwards."""
    environment = {"MODE": "online", "API_KEY": "0" * 40, "BASE_URL": "http://127.0.0.1:9"}
    environment |= {f"{name}_DIR": str(tmp_path / "own") for name in ("CONFIG", "CACHE")}
    environment |= {"ERROR_REPORTING": "false", "SILENT": "true", "DISABLE_GIT": "true"}
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "own"))
    yield
    wandb.teardown()


def test_a_training_outlives_wandb(tmp_path: Path) -> None:
    logger = RobustWandbLogger(tmp_path, experiment=Failing())
    trainer = tiny.trainer(logger=logger, callbacks=[Tracking(tmp_path)], log_every_n_steps=1)
    with pytest.warns(UserWarning, match="W&B failed") as caught:
        trainer.fit(tiny.task(), datamodule=Data())
    assert trainer.global_step == 6
    assert sum("W&B failed" in str(one.message) for one in caught) == 1


def test_a_dead_server_delays_and_the_run_goes_on_offline(
    online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "INIT_SECONDS", 1)
    logger = RobustWandbLogger(tmp_path, project="x", id="1a2b", resume="allow")
    start = time.monotonic()
    with pytest.warns(UserWarning, match="cannot be reached .*; this run goes on offline"):
        run = logger.experiment
    assert time.monotonic() - start < 60
    assert run.settings.mode == "offline" and run.settings.init_timeout == 1 and run.id == "1a2b"
    logger.log_metrics({"val/iou": 0.5}, 0)
    run.finish()
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_without_any_wandb_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wandb.init

    def broken(**settings: Any) -> Any:
        if settings.get("mode") == "disabled":
            return real(**settings)
        raise OSError("no memory for its process")

    monkeypatch.setattr(wandb, "init", broken)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    logger = RobustWandbLogger(tmp_path)
    with pytest.warns(UserWarning, match="goes on") as caught:
        logger.log_metrics({"a": 1.0})
    assert [str(one.message).rpartition(" ")[2] for one in caught] == ["offline", "without"]
    logger.log_metrics({"a": 2.0})
    wandb.finish()


@pytest.mark.parametrize("login", ["key", "netrc"])
def test_whether_the_server_wants_a_run_to_end(
    login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\n  login user\n  password secret\n")
    settings = SimpleNamespace(base_url="http://127.0.0.1:9", api_key=None)
    run = SimpleNamespace(entity="e", project="p", id="x", settings=settings)
    assert not stopped_by_server(run), "nobody answers"
    with serving() as server:
        settings.base_url, settings.api_key = server.url, "secret" if login == "key" else None
        assert not stopped_by_server(run)
        server.stopping.add("x")
        assert stopped_by_server(run)
        assert server.operations == ["RunShouldStop"] * 2
        assert server.secrets == {"secret"}


def test_an_offline_run_is_uploaded_whole(
    online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real ``wandb sync``, to a stand-in for the server."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    logger = RobustWandbLogger(
        folder, project="x", config={"model": {"lr": 0.1}}, offline=True, group="g", tags=["t"]
    )
    split = Split(("a",), ("b",), ("c",))
    data = SimpleNamespace(split=split)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data, loggers=[logger])
    RunRecord(folder, "x: 1").setup(trainer, tiny.task(), "fit")
    (folder / "git.diff").write_text("a change")
    Tracking(folder).setup(trainer, tiny.task(), "fit")
    for step, score in enumerate((0.4, 0.9, 0.5)):
        logger.log_metrics({"val/iou": score, "val/loss": score}, step)
    ids = np.eye(6, 8, dtype=np.int32)
    picture = Picture(np.zeros((6, 8, 1), np.uint8), ids, 1 - ids)
    logger.log_pictures({"a": picture}, 2)
    rows = [
        {"method": "network", "id": i, "kind": "", "tp": 1, "iou": v}
        for i, v in (("a", 1.0), ("b", 0.0))
    ]
    shown: list[str] = []
    logger.log_test(rows, lambda name: (shown.append(name), picture)[1])  # type: ignore[func-returns-value]
    logger.log_curves(COUNTS)
    ends = {"iou": [0.2, 0.8], "auroc": [None, None]}
    logger.log_summary({"intervals": {"network": ends}, "otsu": {"iou": 0.3}})
    (folder / "report.html").write_text("<h1>a page</h1>")
    keep_files([logger], folder)
    (folder / "best.ckpt").write_bytes(b"weights")
    logger.upload(folder / "best.ckpt")
    assert not logger.failed and shown == ["b", "a"]  # the worst first
    run = logger.experiment
    assert run.summary["val/iou"]["max"] == 0.9 and run.summary["val/loss"]["min"] == 0.4
    assert (run.summary["test/iou_low"], run.summary["otsu/iou"]) == (0.2, 0.3)
    assert run.summary.get("test/auroc_low") is None and run.tags == ("t",) and run.group == "g"
    run.finish()

    asked: list[dict[str, Any]] = []
    answer = Server.answer

    def more(self: Server, operation: str, query: str, given: dict[str, Any]) -> Any:
        if operation == "CreateArtifact":
            asked.append(given["input"])
        return answer(self, operation, query, given)

    monkeypatch.setattr(Server, "answer", more)
    with serving() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online"}
        (path,) = folder.glob("wandb/offline-run-*")
        code = "from wandb.cli.cli import cli; cli()"
        subprocess.run(
            [sys.executable, "-c", code, "sync", str(path)],
            env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    (sent,) = server.runs.values()
    assert sent.state == "finished"
    scores = [row["val/iou"] for row in sent.history if "val/iou" in row]
    assert scores == [0.4, 0.9, 0.5]
    keys = {key for row in sent.history for key in row}
    assert {"val/image_1", "test/images", "test/precision_recall_table", "test/roc_table"} <= keys
    assert {"val-pixels/iou", "report"} <= keys
    assert sent.config["model"]["value"] == {"lr": 0.1}
    assert len(sent.config["split_sha256"]["value"]) == 16 and "git" in sent.config
    kinds = {one["artifactTypeName"]: one for one in asked}
    # W&B sends the aliases as a set: in any order.
    assert {one["alias"] for one in kinds["model"]["aliases"]} == {"best", "latest"}
    assert {"git.diff"} <= uploaded(path)


def uploaded(path: Path) -> set[str]:
    """Names of the run's own files."""
    return {one.name for one in (path / "files").iterdir()}


@pytest.mark.filterwarnings("ignore")  # of its own and of SQLAlchemy
def test_mlflow_on_sqlite_has_scores_settings_and_files(
    dsb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps files by default
    uri = "sqlite:///mlflow.db"
    kind = "--trainer.logger=lightning.pytorch.loggers.MLFlowLogger"
    more = (f"--trainer.logger.tracking_uri={uri}", "--trainer.logger.experiment_name=nuclei")
    run = fit(dsb_root, tmp_path / "runs", kind, *more, "--run.tune=false")
    client = mlflow.MlflowClient(uri)
    (kept,) = client.search_runs([client.get_experiment_by_name("nuclei").experiment_id])
    assert kept.info.status == "FINISHED"
    wanted = scores(run)["network"]["iou"]
    assert kept.data.metrics["test/iou"] == pytest.approx(wanted, abs=1e-6)
    assert len(client.get_metric_history(kept.info.run_id, "val/iou")) == 1
    assert kept.data.params["model/init_args/net/init_args/width"] == "4"
    names = {file.path for file in client.list_artifacts(kept.info.run_id)}
    assert names == {"report.html", "scores.json", "config.yaml"}


def test_tensorboards_files_hold_the_scores(dsb_root: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = fit(dsb_root, tmp_path / "runs", "--trainer.logger=true", "--run.tune=false")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    (tested,) = events.Scalars("test/iou")
    assert tested.value == pytest.approx(scores(run)["network"]["iou"], abs=1e-6)
    assert "val/ap50" in events.Tags()["scalars"]
