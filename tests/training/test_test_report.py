"""The report of a test: every number against one counted by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from segmentation.data.sample import Split
from segmentation.data.seen import Division
from segmentation.data.sources import APART, SHARED
from segmentation.evaluation.pages import render
from segmentation.metrics import ScoreTable
from segmentation.metrics.counts import object_counts, overlaps
from segmentation.metrics.scores import object_scores
from segmentation.objects import label_components
from segmentation.targets import Foreground
from segmentation.training.test_report import METHODS, TestReport

KNOWN = ("network", "otsu", "nothing")  # whose counts are known by hand

# tp, fp, fn of the network and of Otsu's threshold on 4×10 pixels, and the kind of the image.
IMAGES = {
    "a": ((8, 2, 0), (4, 4, 4), "x"),
    "b": ((0, 5, 5), (5, 0, 0), "y"),
    "c": ((10, 0, 0), (10, 0, 0), "x"),
    "d": ((0, 0, 0), (0, 1, 0), "y"),
    "sub/e": ((3, 3, 3), (6, 0, 0), "x"),
}
PIXELS = 40


def masks(tp: int, fp: int, fn: int) -> tuple[np.ndarray, np.ndarray]:
    """A (4, 10) prediction and its truth with so many hits and errors."""
    predicted, truth = np.zeros((2, PIXELS), bool)
    predicted[: tp + fp] = True
    truth[:tp] = truth[tp + fp : tp + fp + fn] = True
    return predicted.reshape(4, 10), truth.reshape(4, 10)


class Data:
    """Otsu's threshold finds in ``gray`` what is to be found; the image shown is black."""

    split = SimpleNamespace(val=())

    def pixels(self, name: str) -> np.ndarray:
        network, otsu, _kind = IMAGES[name]
        truth = masks(*network)[1]
        hits, errors = np.flatnonzero(truth)[: otsu[0]], np.flatnonzero(~truth)[: otsu[1]]
        gray = np.full(PIXELS, 20, np.uint8)
        gray[[*hits, *errors]] = 200
        return gray.reshape(4, 10, 1)

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray, None]:
        return np.zeros((4, 10, 1), np.uint8), masks(*IMAGES[name][0])[1].astype(np.int32), None


def report(
    folder: Path, names: Sequence[str] = tuple(IMAGES), **more: Any
) -> tuple[TestReport, Any, Any]:
    """A report that has seen these images two by two, its trainer and its task."""
    found = TestReport(folder, **more)
    trainer = SimpleNamespace(
        datamodule=Data(),
        world_size=1,
        is_global_zero=True,
        loggers=[],
        checkpoint_callback=None,
    )
    table = ScoreTable(boundary=True)
    task = SimpleNamespace(target=Foreground(), test_table=table, device=torch.device("cpu"))
    found.on_test_epoch_start(trainer, task)  # type: ignore[arg-type]
    for start in range(0, len(names), 2):
        some = list(names[start : start + 2])
        pairs = [masks(*IMAGES[name][0]) for name in some]
        probs = torch.from_numpy(np.stack([0.3 + 0.4 * p for p, _ in pairs])).float()
        truth = torch.from_numpy(np.stack([t for _, t in pairs]))
        kinds = [IMAGES[name][2] for name in some]
        batch = {"id": some, "kind": kinds, "group": [""] * len(some), "labels": truth.int() * 7}
        instances = torch.from_numpy(np.stack([label_components(p) for p, _ in pairs]))
        table.update(truth.int(), instances, probs, some, kinds, [""] * len(some))
        outputs = {"foreground": probs, "instances": instances, "classes": [None] * len(some)}
        found.on_test_batch_end(trainer, task, outputs, batch, start)  # type: ignore[arg-type]
    return found, trainer, task


def written(folder: Path, **more: Any) -> dict[str, Any]:
    found, trainer, task = report(folder, **more)
    found.on_test_epoch_end(trainer, task)
    result: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return result


def iou(tp: int, fp: int, fn: int) -> float:
    return tp / (tp + fp + fn) if tp + fp + fn else 1.0


def f1(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def counted(method: int, kind: str | None) -> list[tuple[int, int, int]]:
    """tp, fp, fn of each image by the network (0), Otsu's threshold (1) or nothing (2)."""
    rows = [row for row in IMAGES.values() if kind in (None, row[2])]
    return [(0, 0, r[0][0] + r[0][2]) if method == 2 else (r[0], r[1])[method] for r in rows]


def by_hand(method: int, kind: str | None = None) -> dict[str, float]:
    """Scores of pixels, of all images or of one kind."""
    counts = counted(method, kind)
    tp, fp, fn = (sum(c) for c in zip(*counts, strict=True))
    background = PIXELS * len(counts) - tp - fp - fn
    return {
        "iou": iou(tp, fp, fn),
        "f1": f1(tp, fp, fn),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn),
        "mean_iou": (iou(tp, fp, fn) + iou(background, fn, fp)) / 2,
        "image_iou": sum(iou(*c) for c in counts) / len(counts),
        "image_f1": sum(f1(*c) for c in counts) / len(counts),
    }


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({}, APART),  # trained on what the split says
        ({"of b": "b"}, f"2 of 3 test images {SHARED}"),  # as a checkpoint says
        ({"of another data set": "x"}, None),
    ],
)
def test_whether_sources_were_trained_on(
    seen: dict[str, str], says: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, trainer, task = report(tmp_path)
    trainer.datamodule.sources = {"a": "x", "b": "y", "c": "y", "d": "y", "sub/e": "z"}
    split = Split(("a",), ("b",), ("c", "d", "sub/e"))
    task.data_split = Division("made", split, {name: f"of {name}" for name in IMAGES})
    task.seen = seen
    found.on_test_epoch_end(trainer, task)
    assert json.loads((tmp_path / "scores.json").read_text()).get("sources") == says
    assert ("\ntest images " in (printed := capsys.readouterr().out)) == (says == APART)
    assert says is None or says in printed.splitlines()


def test_scores_are_pooled_and_by_image_and_by_kind(tmp_path: Path) -> None:
    scores = written(tmp_path)
    assert scores["images"] == 5
    assert list(scores)[1:5] == list(METHODS)
    assert scores["classical_by"].endswith("chosen by the images alone: no truth was looked at")
    for method, name in enumerate(KNOWN):
        wanted = by_hand(method)
        assert {k: scores[name][k] for k in wanted} == pytest.approx(wanted)
        assert set(scores["by_kind"][name]) == {"x", "y"}
        for kind, count in (("x", 3), ("y", 2)):
            wanted = {"images": count, **by_hand(method, kind)}
            part = scores["by_kind"][name][kind]
            assert {k: part[k] for k in wanted} == pytest.approx(wanted)
        assert all(low <= high for low, high in scores["intervals"][name].values())
    assert all(0 < scores["network"][name] < 1 for name in ("auroc", "average_precision"))
    assert "auroc" not in scores["otsu"]  # a hard mask ranks nothing
    assert scores["nothing"]["image_ap50"] == 1 / 5  # one image is empty
    assert 0 < scores["otsu"]["image_ap50"] < 1


def test_a_row_for_every_image_and_method(tmp_path: Path) -> None:
    written(tmp_path)
    table = pd.read_csv(tmp_path / "per_image.csv")
    assert list(table)[:8] == ["method", "id", "kind", "group", "tp", "fp", "fn", "tn"]
    assert {"ap", "pq", "aji", "seg", "hd95", "boundary_f", "count_error"} < set(table)
    table = table.set_index(["method", "id"])
    assert list(table.index) == [(method, name) for method in METHODS for name in sorted(IMAGES)]
    for method, title in enumerate(KNOWN):
        for name, (tp, fp, fn) in zip(IMAGES, counted(method, None), strict=True):
            row = table.loc[(title, name)]
            assert row[["tp", "fp", "fn", "tn"]].tolist() == [tp, fp, fn, PIXELS - tp - fp - fn]
            assert row["kind"] == IMAGES[name][2]
            found = row[["iou", "f1"]].tolist()
            assert found == pytest.approx([iou(tp, fp, fn), f1(tp, fp, fn)], abs=1e-6)
    # The network's objects are those of its decoding.
    for name, (network, _, _) in IMAGES.items():
        predicted, truth = masks(*network)
        scores = object_scores(
            object_counts(overlaps(truth.astype(int), label_components(predicted)))
        )
        wanted = [float(scores[column]) for column in ("ap", "pq", "aji")]
        found = table.loc[("network", name), ["ap", "pq", "aji"]].tolist()
        assert found == pytest.approx(wanted, abs=1e-6)


def test_pictures_of_the_worst_the_median_and_the_best(tmp_path: Path) -> None:
    """IoU: b 0, e 1/3, a 0.8, then c and d with 1."""
    written(tmp_path, pictures=1)
    names = {path.name for path in (tmp_path / "overlays").iterdir()}
    best = "best-1_iou1.000_d.png"
    assert names == {"worst-1_iou0.000_b.png", "median-1_iou0.800_a.png", best}
    written(tmp_path / "more", pictures=2)
    names = {path.stem for path in (tmp_path / "more/overlays").iterdir()}
    assert {"worst-1_iou0.000_b", "worst-2_iou0.333_sub_e"} <= names and len(names) == 6
    written(tmp_path / "all", pictures=9)  # more than there are
    assert len(list((tmp_path / "all/overlays").iterdir())) == 3 * 5


def test_the_printed_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = written(tmp_path)
    printed = capsys.readouterr().out
    assert "5 images" in printed and str(tmp_path / "scores.json") in printed
    assert "weights" not in printed  # there is no checkpoint
    lines = [line for line in printed.splitlines() if line.strip()]
    assert max(map(len, lines[:13])) <= 80
    rows = {line[:20].strip(): line[20:].replace("…", " ").split() for line in lines}
    titles = {"image_iou": "IoU per image", "image_f1": "F1 per image", "iou": "IoU"}
    titles["mean_iou"] = "IoU with background"
    for name, title in titles.items():
        ends = scores["intervals"]["network"][name]
        third = scores["classical"][name]
        wanted = [by_hand(0)[name], *ends, by_hand(1)[name], third, by_hand(2)[name]]
        assert rows[title] == [f"{value:.4f}" for value in wanted]
    assert rows["AUROC"] == [f"{scores['network']['auroc']:.4f}", "–", "–", "–", "–"]
    assert f"classical: {scores['classical_by']}" in " ".join(printed.split())
    rows = {words[0]: words[1:] for line in lines if (words := line.split())}
    for kind, count in (("x", "3"), ("y", "2")):
        of = scores["by_kind"]
        shown = [of[m][kind][n] for n in ("image_iou", "image_ap") for m in METHODS[:3]]
        assert rows[kind] == [count, *(f"{value:.4f}" for value in shown)]
    scores["by_kind"] = {m: {"x": kinds["x"]} for m, kinds in scores["by_kind"].items()}
    assert "by kind" not in render("test.txt", scores=scores)  # one kind says nothing new
    scores["as trained"] = scores["otsu"]
    text = render("test.txt", scores=scores)
    assert text.splitlines()[1].split()[4:] == [
        *("tuned", "95", "%", "interval", "as", "trained", "Otsu", "classical", "nothing")
    ]


def test_pictures_go_to_wandb_and_the_best_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, trainer, task = report(tmp_path, pictures=1)
    logged: list[Any] = []
    logger = WandbLogger.__new__(WandbLogger)
    monkeypatch.setattr(
        WandbLogger, "log_image", lambda _, *parts, caption: logged.append((*parts, caption))
    )
    trainer.loggers = [SimpleNamespace(), logger]
    trainer.checkpoint_callback = SimpleNamespace(best_model_path="x/best.ckpt")
    found.on_test_epoch_end(trainer, task)
    ((key, images, captions),) = logged
    assert key == "test/overlays" and captions[0] == "worst-1_iou0.000_b"
    assert len(images) == 3 and len({image.shape for image in images}) == 1
    assert all((tmp_path / "overlays" / f"{caption}.png").is_file() for caption in captions)
    assert "weights   x/best.ckpt" in capsys.readouterr().out
