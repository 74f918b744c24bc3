"""The report of a test: every number against one counted by hand."""

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from segmentation.evaluation.overlays import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE
from segmentation.io.images import read_image
from segmentation.metrics import ScoreTable
from segmentation.metrics.counts import object_counts, overlaps
from segmentation.metrics.scores import object_scores
from segmentation.objects import label_components
from segmentation.targets import Foreground
from segmentation.training.test_report import METHODS, TestReport, format_scores

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

    def gray(self, name: str, *_: Any) -> np.ndarray:
        network, otsu, _kind = IMAGES[name]
        truth = masks(*network)[1]
        hits, errors = np.flatnonzero(truth)[: otsu[0]], np.flatnonzero(~truth)[: otsu[1]]
        gray = np.full(PIXELS, 20, np.uint8)
        gray[[*hits, *errors]] = 200
        return gray.reshape(4, 10)

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((4, 10, 1), np.uint8), masks(*IMAGES[name][0])[1]


def report(
    folder: Path, names: Sequence[str] = tuple(IMAGES), rank: int = 0, world: int = 1, **more: Any
) -> tuple[TestReport, Any, Any]:
    """A report that has seen these images two by two, its trainer and its task."""
    found = TestReport(folder, **more)
    trainer = SimpleNamespace(
        datamodule=Data(),
        world_size=world,
        is_global_zero=rank == 0,
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
        outputs = {"foreground": probs, "instances": instances}
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


def test_scores_are_pooled_and_by_image_and_by_kind(tmp_path: Path) -> None:
    scores = written(tmp_path)
    assert scores["images"] == 5
    for method, name in enumerate(METHODS):
        for wanted, found in ((by_hand(method), scores[name]),):
            assert {k: found[k] for k in wanted} == pytest.approx(wanted)
        assert set(scores["by_kind"][name]) == {"x", "y"}
        for kind, count in (("x", 3), ("y", 2)):
            part = scores["by_kind"][name][kind]
            wanted = {"images": count, **by_hand(method, kind)}
            assert {k: part[k] for k in wanted} == pytest.approx(wanted)
        for score, (low, high) in scores["intervals"][name].items():
            assert low <= high, score
    assert all(0 < scores["network"][name] < 1 for name in ("auroc", "average_precision"))
    assert "auroc" not in scores["otsu"]  # a hard mask ranks nothing
    assert scores["nothing"]["image_ap50"] == 1 / 5  # one image is empty


def test_objects_are_those_of_the_decoding_and_otsus_components(tmp_path: Path) -> None:
    scores = written(tmp_path)
    tables = []
    for network, _, _ in IMAGES.values():
        predicted, truth = masks(*network)
        table = overlaps(truth.astype(int), label_components(predicted))
        tables.append(object_scores(object_counts(table)))
    for name in ("ap", "ap50", "pq", "aji"):
        mean = sum(table[name] for table in tables) / 5
        assert scores["network"][f"image_{name}"] == pytest.approx(mean)
    # Otsu finds all of b, c and e and nothing else: components of the truth, where it is in one.
    assert 0 < scores["otsu"]["image_ap50"] < 1
    assert scores["network"]["image_seg"] is not None


def test_a_row_for_every_image_and_method(tmp_path: Path) -> None:
    written(tmp_path)
    with (tmp_path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["method", "id", "kind", "group", "tp", "fp", "fn", "tn"]
    assert {"ap", "pq", "aji", "seg", "hd95", "boundary_f", "count_error"} < set(rows[0])
    assert [(r["method"], r["id"]) for r in rows] == [
        (method, name) for method in METHODS for name in sorted(IMAGES)
    ]
    for row in rows:
        method = METHODS.index(row["method"])
        place = list(IMAGES).index(row["id"])
        tp, fp, fn = counted(method, None)[place]
        counts = [int(row[name]) for name in ("tp", "fp", "fn", "tn")]
        assert counts == [tp, fp, fn, PIXELS - tp - fp - fn]
        assert row["kind"] == IMAGES[row["id"]][2]
        perfect = float(fp + fn == 0)  # what 0 / 0 means
        wanted = {
            "iou": iou(tp, fp, fn),
            "f1": f1(tp, fp, fn),
            "precision": tp / (tp + fp) if tp + fp else perfect,
            "recall": tp / (tp + fn) if tp + fn else perfect,
        }
        assert {name: float(row[name]) for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_a_second_test_starts_anew(tmp_path: Path) -> None:
    found, trainer, task = report(tmp_path / "one")
    found.on_test_epoch_end(trainer, task)
    assert found.masks == found.baselines == {}
    found, trainer, task = report(tmp_path / "two")
    found.on_test_epoch_start(trainer, task)  # the first was broken off
    assert found.masks == {} and found.baselines["otsu"].rows().empty


def test_pictures_of_the_worst_the_median_and_the_best(tmp_path: Path) -> None:
    """IoU: b 0, e 1/3, a 0.8, then c and d with 1."""
    written(tmp_path, pictures=1)
    names = {path.name for path in (tmp_path / "overlays").iterdir()}
    assert names == {
        "worst-1_iou0.000_b.png",
        "median-1_iou0.800_a.png",
        "best-1_iou1.000_d.png",
    }
    written(tmp_path / "more", pictures=2)
    names = {path.stem for path in (tmp_path / "more/overlays").iterdir()}
    assert {"worst-1_iou0.000_b", "worst-2_iou0.333_sub_e"} <= names and len(names) == 6
    written(tmp_path / "all", pictures=9)  # more than there are
    assert len(list((tmp_path / "all/overlays").iterdir())) == 3 * 5


def test_a_picture_shows_each_pixels_fate(tmp_path: Path) -> None:
    written(tmp_path, pictures=2)
    picture = read_image(tmp_path / "overlays/worst-2_iou0.333_sub_e.png")
    assert picture.shape == (4, 2 * 10 + 4, 3)
    assert (picture[:, :10] == 0).all() and (picture[:, 10:14] == 255).all()
    tinted = picture[:, 14:].reshape(-1, 3)
    colours = [TRUE_POSITIVE] * 3 + [FALSE_POSITIVE] * 3 + [FALSE_NEGATIVE] * 3  # over black
    wanted = np.array(colours + [(0, 0, 0)] * 31) / 2
    np.testing.assert_allclose(tinted, wanted, atol=0.5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a share of none
@pytest.mark.parametrize("shares", [("a", "c", "sub/e"), ("b",), ()])
def test_uneven_shares_of_two_processes(
    shares: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and pictures are gathered as the processes have them, nothing twice and nothing lost."""
    rest = [name for name in IMAGES if name not in shares]
    first, trainer, task = report(tmp_path / "both", shares, world=2)
    second, other, other_task = report(tmp_path / "never", rest, rank=1, world=2)
    sent = [pickle.dumps(part.masks) for part in (first, second)]

    def gather(out: list[Any], mine: Any) -> None:
        assert pickle.dumps(mine) in sent
        out[:] = [pickle.loads(part) for part in sent]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    # The tables gather their rows themselves.
    for one, two in (
        (task.test_table, other_task.test_table),
        *zip(first.baselines.values(), second.baselines.values(), strict=True),
    ):
        one.merge_state(two)
        two.merge_state(one)
    first.on_test_epoch_end(trainer, task)
    monkeypatch.setattr(second, "_write", pytest.fail)
    second.on_test_epoch_end(other, other_task)
    assert json.loads((tmp_path / "both/scores.json").read_text()) == written(tmp_path / "alone")
    files = [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
        for folder in (tmp_path / "both", tmp_path / "alone")
    ]
    assert files[0] == files[1] and len(files[0]) > 3


def test_the_printed_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = written(tmp_path)
    printed = capsys.readouterr().out
    assert "5 images" in printed and str(tmp_path / "scores.json") in printed
    assert "weights" not in printed  # there is no checkpoint
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    rows = {words[0]: words[1:] for words in lines}
    for method, name in enumerate(METHODS):
        wanted = [by_hand(method)[k] for k in ("image_iou", "image_f1", "iou", "mean_iou")]
        assert rows[name][:4] == [f"{value:.4f}" for value in wanted]
    assert rows["network"][4] == f"{scores['network']['auroc']:.4f}"
    assert rows["otsu"][4] == "–"  # a hard mask ranks nothing
    low, high = scores["intervals"]["network"]["image_iou"]
    assert rows["95"][:4] == ["%", "interval", "from", f"{low:.4f}"]
    assert rows["to"][0] == f"{high:.4f}"
    for kind, count in (("x", "3"), ("y", "2")):
        pairs = [by_hand(m, kind)[name] for name in ("image_iou", "iou") for m in (0, 1)]
        assert rows[kind][:5] == [count, *(f"{value:.4f}" for value in pairs)]
    scores["by_kind"] = {m: {"x": kinds["x"]} for m, kinds in scores["by_kind"].items()}
    assert "by kind" not in format_scores(scores)  # one kind says nothing new


class Recorder(WandbLogger):
    def __init__(self) -> None:
        self.logged: list[Any] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
        self.logged.append((key, images, more["caption"]))


def test_pictures_go_to_wandb_and_the_best_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, trainer, task = report(tmp_path, pictures=1)
    logger = Recorder()
    trainer.loggers = [SimpleNamespace(), logger]
    trainer.checkpoint_callback = SimpleNamespace(best_model_path="x/best.ckpt")
    found.on_test_epoch_end(trainer, task)
    ((key, images, captions),) = logger.logged
    assert key == "test/overlays" and captions[0] == "worst-1_iou0.000_b"
    assert len(images) == 3 and len({image.shape for image in images}) == 1
    assert all((tmp_path / "overlays" / f"{caption}.png").is_file() for caption in captions)
    assert "weights   x/best.ckpt" in capsys.readouterr().out
