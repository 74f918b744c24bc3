"""From samples that are annotated in part to a trained, tuned and tested network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning import Trainer

from segmentation.data.samplers import Sampling
from segmentation.targets import Foreground, Target
from segmentation.training.test_report import TestReport
from segmentation.training.tracking import Tracking
from segmentation.training.tuning import Search
from tests.data.test_annotated import Made, module
from tests.tiny import Tiny, task


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_run_on_partly_annotated_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores, pictures and the report are of annotated pixels, in every method's rows."""
    data = module(tmp_path, Made(6), sampling=Sampling(length=8), batch_size=4)
    tiny = task(Tiny())
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TestReport(tmp_path), Tracking(tmp_path)],
        default_root_dir=tmp_path,
    )
    trainer.fit(tiny, datamodule=data)
    assert list((tmp_path / "validation").glob("*.png"))
    trainer.test(tiny, datamodule=data, verbose=False)
    rows = pd.read_csv(tmp_path / "per_image.csv")
    assert (rows[["tp", "fp", "fn", "tn"]].sum(axis=1) == 150).all()
    assert rows["method"].tolist() == ["network", "otsu", "classical", "nothing"]
    assert list((tmp_path / "overlays").glob("*.png"))
    assert "gray stripes: not annotated" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["nothing"]["iou"] == 0


@pytest.mark.parametrize("score", ["image_iou", "image_ap"])
def test_tuning_looks_at_annotated_pixels(score: str) -> None:
    """The right half is foreground at .3; the rest, which is not annotated, would say .7."""
    truth = np.full((20, 20), -1, np.int32)
    truth[:, 10:] = 0
    truth[5:15, 13:18] = 1
    probs = np.where(truth > 0, 0.35, 0.25).astype(np.float32)
    probs[:, :8] = 0.6
    target: Target = Foreground()
    search = Search(target, score)
    search.add(probs[None], truth)
    assert search.run() == pytest.approx(1)
    assert search.settings()["threshold"] == 0.3
