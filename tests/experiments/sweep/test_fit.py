"""The real ``segmentation fit`` under ``segmentation sweep run``."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segmentation.experiments.sweep import check
from segmentation.experiments.sweep.check import fit_arguments, refused
from segmentation.experiments.sweep.file import read_sweep
from segmentation.experiments.sweep.status import trial_rows
from segmentation.experiments.sweep.study import existing
from tests.experiments.sweep.common import PATIENCE, ROOT, start, sweep_file
from tests.helpers import TINY, refusal

COMMAND = ["${env}", "${interpreter}", "-m", "segmentation", "fit", "--config"]
SHIPPED = [
    *sorted((ROOT / "configs" / "sweeps").glob("*.yaml")),
    ROOT / "configs" / "cluster" / "multinode.yaml",
]


def test_unknown_parameters_are_refused_before_the_first_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ThreadPoolExecutor  # in place of a process, which imports Torch for half a minute
    monkeypatch.setattr(check, "ProcessPoolExecutor", lambda count, context: here(count))
    for name, value, gist in (
        ("model.optimizer.lrr", 0.1, "model.optimizer.lr"),
        ("data.batchsize", 4, "data.batch_size"),
        ("model.net", "segmentation.models.UNett", "UNett"),
    ):
        path = sweep_file(
            tmp_path,
            command=[*COMMAND, "configs/quickstart.yaml", "${args}"],
            parameters={"data.crop": {"values": [64, 96]}, name: {"values": [value]}},
        )
        store = tmp_path / name
        line = refusal(capsys, ["sweep", "run", str(path), f"--storage={store}"])
        assert f"{path}: " in line and gist in line
        assert not store.exists(), "the mended file starts in the same place"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_fit_takes_the_shipped_sweeps(path: Path) -> None:
    """Of each parameter one value; `segmentation sweep run` tries all."""
    sweep = read_sweep(path)
    base = fit_arguments(sweep)
    assert base is not None
    assert refused(base, {p.name: p.examples()[-1:] for p in sweep.parameters}) is None


def test_fit_on_two_processes(tmp_path: Path, dsb_root: Path) -> None:
    """One trial on two processes, which see the same values, null among them."""
    extra = [
        *TINY, f"--data.root={dsb_root}", "--trainer.devices=2", "--trainer.strategy=ddp",
    ]  # fmt: skip
    path = sweep_file(
        tmp_path,
        command=[*COMMAND, "configs/quickstart.yaml", "${args}"],
        parameters={
            "model.optimizer.lr": {"values": [0.003]},
            "trainer.gradient_clip_val": {"value": None},
        },
    )
    store = tmp_path / "store"
    process = start("run", path, f"--storage={store}", "--", *extra)
    out, err = process.communicate(timeout=PATIENCE)
    log = (store / "logs" / "trial-00000.log").read_text()
    assert process.returncode == 0, err + log
    (row,) = trial_rows(existing(str(store), "sweep"))
    assert row["state"] == "complete", log
    config = (row["folder"] / "config.yaml").read_text()
    assert "lr: 0.003" in config
    assert "gradient_clip_val: null" in config
    assert json.loads((row["folder"] / "resources.json").read_text())["processes"] == 2
    assert 0 <= row["val/iou"] <= 1
    assert f"trial 0: val/iou {row['val/iou']:.4g}" in out
