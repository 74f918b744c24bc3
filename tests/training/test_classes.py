"""A training with classes by the command line: what it writes, and what is refused before it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segmentation.__main__ import main
from segmentation.datasets.synthetic import write_classes
from segmentation.datasets.synthetic_classes import NAMES
from segmentation.io.images import read_image
from tests.helpers import CONFIGS, refusal, scores

HEAD = [
    "--model.target=segmentation.targets.WithClasses",
    "--model.target.names=[round,long,large]",
    "--model.target.objects=segmentation.targets.Contour",
    "--model.net.classes=7",
    "--model.loss=segmentation.losses.ObjectsAndClasses",
    "--model.loss.objects=segmentation.losses.WeightedCrossEntropy",
    "--model.loss.classes=3",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"), 9, size=(64, 64))


def arguments(command: str, root: Path, runs: Path, *more: str) -> list[str]:
    return [
        command,
        f"--config={CONFIGS / 'classes.yaml'}",
        f"--data.root={root}",
        f"--run.root={runs}",
        *("--data.split.val=2", "--data.split.test=3", "--data.crop=32", "--data.batch_size=4"),
        *("--data.sampling.length=8", "--model.net.width=4", "--model.net.depth=3"),
        *("--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *more,
    ]


@pytest.mark.parametrize("head", [[], HEAD], ids=["classes", "class head"])
def test_a_training_scores_every_class(head: list[str], root: Path, tmp_path: Path) -> None:
    assert main(arguments("fit", root, tmp_path, *head)) == 0
    (run,) = tmp_path.glob("*/*")
    found = scores(run)
    matrix = found["confusion"]["network"]
    assert matrix["classes"] == ["background", *NAMES]
    assert np.sum(matrix["pixels"]) == 3 * 64 * 64
    ends = found["intervals"]["network"]["class_iou"]
    assert ends[0] <= found["network"]["class_iou"] <= ends[1]
    assert set(found["otsu"]) >= {"class_pq", "iou/long", "image_class_f1"}
    table = pd.read_csv(run / "per_image.csv")
    mine = table[table["method"] == "network"]
    assert mine["pixels/round/background"].sum() == matrix["pixels"][1][0]
    assert mine["true_objects/long"].sum() == sum(matrix["objects"][2])
    assert "val/iou/large" in (run / "metrics.csv").read_text()
    page = (run / "report.html").read_text()
    assert "truth in rows" in page and "round: orange, long: light blue, large: green" in page
    picture = next((run / "overlays").glob("*.png"))
    assert read_image(picture).shape[1] == 4 * 6 * 64 + 3 * 4  # enlarged six times
    (best,) = (run / "checkpoints").glob("best*.ckpt")
    tune = arguments("tune", root, tmp_path, *head, f"--ckpt_path={best}", "--score=class_pq")
    assert main(tune) == 0
    tuned = json.loads(best.with_suffix(".tuned.json").read_text())
    assert ("seed" in tuned["target"]) == bool(head) and tuned["after"] >= tuned["before"]
    assert main(["compare", str(run), f"again={run}"]) == 2  # given twice
    out = tmp_path / "out"
    paths = [f"--ckpt_path={best}", f"--data.images={root / 'images'}", f"--output={out}"]
    assert main(["predict", *paths, "--device=cpu", "--overlays"]) == 0
    columns = [name for name in pd.read_csv(out / "images.csv") if name.startswith("objects/")]
    assert columns == [f"objects/{name}" for name in NAMES]


def test_monitors_of_classes_are_known(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, arguments("fit", root, tmp_path, "--checkpoint.monitor=val/iou/huge"))
    assert "checkpoint.monitor: val/iou/huge is not logged" in line and "val/iou/large" in line
    names = ["--model.target.names=[round,large,long]"]
    line = refusal(capsys, arguments("fit", root, tmp_path, *names))
    assert "model.target.names: round, large, long are not the classes of the data" in line
    line = refusal(capsys, arguments("fit", root, tmp_path, "--model.net.classes=3"))
    assert "gives 3 class(es) but Classes needs 4 (background, round, long, large)" in line
