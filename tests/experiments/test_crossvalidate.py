"""All folds by one command: what is pooled, going on after a stop, and what is refused."""

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from segmentation.__main__ import main
from segmentation.data.sources import APART, SHARED
from tests.helpers import CONFIGS, TINY, refusal
from tests.pages import check_page

COLUMNS = ("method", "id", "kind", "group", "tp", "fp", "fn", "tn", "iou", "ap")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_folds_are_trained_and_pooled(
    dsb_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real runs; two, because each is a process of its own."""
    out = tmp_path / "cv"
    argv = ["crossvalidate", f"--config={CONFIGS / 'quickstart.yaml'}", "--folds=2", *TINY]
    argv += [f"--data.root={dsb_root}", f"--output={out}"]
    assert main(argv) == 0
    printed, told = capfd.readouterr()
    assert "fold 1 of 2: " in told and "fold 2 of 2: " in told

    runs = [next((out / f"fold{fold}").iterdir()) for fold in range(2)]
    splits = [json.loads((run / "split.json").read_text()) for run in runs]
    assert [split["counts"] for split in splits] == [{"train": 4, "val": 2, "test": 6}] * 2
    images = sorted(splits[0]["test"] + splits[1]["test"])
    assert len(set(images)) == 12

    rows, own = rows_of(out / "per_image.csv"), rows_of(runs[0] / "per_image.csv")
    assert list(rows[0]) == list(own[0])  # what a run writes, for `segmentation compare`
    assert {row["method"] for row in own} == {row["method"] for row in rows} >= {"network", "otsu"}
    for method in {row["method"] for row in rows}:
        assert [row["id"] for row in rows if row["method"] == method] == images
    assert all(row in rows for row in own)

    scores = json.loads((out / "scores.json").read_text())
    assert scores["images"] == 12
    for method in ("network", "otsu"):
        mine = [row for row in rows if row["method"] == method]
        tp, fp, fn = (sum(int(row[name]) for row in mine) for name in ("tp", "fp", "fn"))
        assert scores[method]["iou"] == pytest.approx(tp / (tp + fp + fn))
        mean = statistics.fmean(float(row["iou"]) for row in mine)
        assert scores[method]["image_iou"] == pytest.approx(mean)
        assert sum(kind["images"] for kind in scores["by_kind"][method].values()) == 12

    reports = [json.loads((run / "scores.json").read_text())["network"] for run in runs]
    lines = {(row["method"], row["score"]): row for row in rows_of(out / "crossvalidation.csv")}
    for name in ("iou", "auroc"):
        values = [report[name] for report in reports]
        line = lines["network", name]
        found = [float(line[column]) for column in ("fold0", "fold1", "mean", "sd")]
        wanted = [*values, statistics.mean(values), statistics.stdev(values)]
        assert found == pytest.approx(wanted, abs=1e-6)
        assert f"{values[0]:.4f}  {values[1]:.4f}  {statistics.mean(values):.4f} ± " in printed
    assert float(lines["otsu", "iou"]["pooled"]) == pytest.approx(scores["otsu"]["iou"], abs=1e-6)
    assert lines["network", "auroc"]["pooled"] == ""  # the tables hold no probabilities

    weights = " ".join(str(run / "checkpoints/best.ckpt") for run in runs)
    assert f"segmentation predict --ckpt_path {weights} " in printed
    page = (out / "crossvalidation.html").read_text()
    check_page(page)
    assert "2 of 2 done" in page and f"{scores['network']['image_iou']:.3f}" in page
    assert main(argv) == 0  # nothing is run again
    again, told = capfd.readouterr()
    assert again.strip() and again == printed and "fold 1 of" not in told


def ended(status: int) -> Mock:
    return Mock(returncode=status, **{"poll.return_value": status})


class Runs:
    """Stands for ``segmentation fit``: writes what a run of four images and two folds writes."""

    def __init__(self) -> None:
        self.folds, self.failing = 2, set[int]()
        self.started: list[int] = []
        self.tested = [["a", "b"], ["c", "d"]]
        self.says = ["", ""]  # of the sources of each fold's test

    def __call__(self, argv: list[str], stdout: Any, stderr: Any) -> Any:
        given = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
        fold, _, folds = given["data.fold"].partition("/")
        fold = int(fold)
        assert argv[:4] == [sys.executable, "-m", "segmentation", "fit"]
        assert folds == str(self.folds) and given["data.root"] == "x"
        self.started.append(fold)
        if fold in self.failing:
            stdout.write(b"some words\nsegmentation: error: the reason\n")
            return ended(2)
        run = Path(given["run.root"]) / given["run.name"] / "now"
        (run / "checkpoints").mkdir(parents=True)
        for name in ("best", "last"):
            (run / f"checkpoints/{name}.ckpt").touch()
        split = {"train": ["abcd"[2 - 2 * fold]], "val": ["abcd"[3 - 2 * fold]]}
        (run / "split.json").write_text(json.dumps(split | {"test": ["ab", "cd"][fold]}))
        ours = {"iou": 0.75, "image_ap": (None, 0.25)[fold], "ap": 0.5}
        theirs = {"iou": 0.0, "image_ap": (None, 0.25)[fold], "ap": 0.0}
        report = {"images": 2, "network": ours, "nothing": theirs, "by_kind": {}}
        report |= {"sources": self.says[fold]} if self.says[fold] else {}
        (run / "scores.json").write_text(json.dumps(report))
        with (run / "per_image.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for method, right in (("network", 3), ("nothing", 0)):
                for name in self.tested[fold]:
                    ap = {"a": "", "b": "nan"}.get(name, "0.25")
                    table.writerow([method, name, "k", "", right, 1, 0, 9, right / 4, ap])
        return ended(0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr("segmentation.experiments.process.subprocess.Popen", runs)
    return runs


def command(output: Path | None, *more: str) -> list[str]:
    where = [] if output is None else [f"--output={output}"]
    config = f"--config={CONFIGS / 'quickstart.yaml'}"
    return ["crossvalidate", config, "--folds=2", "--data.root=x", *where, *more]


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        ([APART, APART], APART),
        ([APART, f"1 of 2 test images {SHARED}"], f"test images {SHARED}"),
        ([APART, ""], None),
    ],
)
def test_what_the_test_of_all_folds_is(
    says: list[str], wanted: str | None, runs: Runs, tmp_path: Path, capsys: Any
) -> None:
    runs.says = says
    assert main(command(tmp_path / "cv")) == 0
    assert json.loads((tmp_path / "cv/scores.json").read_text()).get("sources") == wanted
    assert (wanted or "\n\nscores ") in capsys.readouterr().out
    page = (tmp_path / "cv/crossvalidation.html").read_text()
    assert ("sources never trained on" in page) == (wanted == APART)


def test_a_fold_that_fails_is_done_later(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cv"
    runs.failing = {0}
    assert main(command(out)) == 1
    printed = capsys.readouterr()
    log = out / "logs/fold0.log"
    told = f"failed    fold 1 of 2: segmentation: error: the reason (log: {log})"
    assert told in printed.err.splitlines()
    assert "1 of 2 folds are done" in printed.out and "some words" in log.read_text()
    assert not (out / "per_image.csv").exists()

    assert "of other options or another config" in refusal(capsys, command(out, "--data.crop=64"))
    assert "of other options" in refusal(capsys, [*command(out), "--folds=3"])

    runs.failing = set()
    assert main(command(out)) == 0
    assert runs.started == [0, 1, 0]  # the finished one is not run again
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["images", "network", "nothing", "by_kind", "intervals", "resampled"]
    # Every column, of the images that have a number there.
    pooled = {"iou": 0.75, "image_iou": 0.75, "image_ap": 0.25}
    assert pooled.items() <= scores["network"].items()
    assert scores["by_kind"]["network"]["k"]["images"] == 4
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["iou", "0.7500", "0.7500", "0.7500", "±", "0.0000", "0.7500", "0.0000"] in lines
    assert ["image_ap", "–", "0.2500", "0.2500", "0.2500", "0.2500"] in lines
    # What the tables cannot pool is the mean over folds for the others.
    assert ["ap", "0.5000", "0.5000", "0.5000", "±", "0.0000", "–", "0.0000"] in lines

    (out / "fold1/now/per_image.csv").unlink()  # a run that was removed is run again
    (out / "fold1/now").rename(out / "gone")
    assert main(command(out)) == 0
    assert runs.started == [0, 1, 0, 1]


def test_two_folds_that_fail_are_enough(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.folds, runs.failing = 4, {0, 1, 2, 3}
    assert main([*command(tmp_path / "cv"), "--folds=4"]) == 1
    assert runs.started == [0, 1] and "0 of 4 folds are done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tested", "says"),
    [
        ([["a", "b"], ["b", "d"]], "b: was tested 2 times by network, and each image must be once"),
        ([["a", "b"], ["d"]], "c: was tested 0 times by network"),
    ],
)
def test_each_image_must_be_tested_once(
    tested: list[list[str]],
    says: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs.tested = tested
    assert says in refusal(capsys, command(tmp_path / "cv"))
    assert not (tmp_path / "cv/per_image.csv").exists()


def test_where_it_goes_by_default(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command(None)) == 0
    assert (tmp_path / "runs/quickstart-2fold/per_image.csv").exists()
    assert (tmp_path / "runs/quickstart-2fold/fold1/now").is_dir()
    (tmp_path / "mine.yaml").write_text("run: {root: elsewhere}\n")
    assert main(command(None, f"--config={tmp_path / 'mine.yaml'}")) == 0
    assert (tmp_path / "elsewhere/quickstart-2fold/per_image.csv").exists()


def test_what_cannot_be_run(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*more: str, output: Path = tmp_path / "cv") -> str:
        return refusal(capsys, command(output, *more))

    assert "--folds 1: must be at least 2" in error("--folds=1")
    assert "required: config" in refusal(capsys, ["crossvalidate"])
    assert "gone.yaml: no such config" in error("--config=gone.yaml")
    for word in ("--data.fold=1/3", "--run.root=x", "--run.name=x"):
        assert f"{word.partition('=')[0]}: is not for all folds" in error(word)
    assert "--ckpt_path: is not for all folds" in error("--ckpt_path", "x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/per_image.csv").touch()
    assert "per_image.csv: is not of a cross-validation" in error(output=tmp_path / "run")
    (tmp_path / "file").touch()
    assert "cannot be read (" in error(output=tmp_path / "file")
    (tmp_path / "cv").mkdir()
    for text in ("[", "[]", '{"arguments": 1}'):
        (tmp_path / "cv/crossvalidation.json").write_text(text)
        assert "crossvalidation.json: cannot be read" in error()
    assert runs.started == []
