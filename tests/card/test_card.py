"""The model card of checkpoints of any age, read back by those who know the format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from segmentation.__main__ import main
from segmentation.card import model_card
from segmentation.card.record import began, scored_as, versions
from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError
from tests.helpers import refusal

KINDS = (("histology", 9), ("", 3))
SCORES: dict[str, Any] = {
    "images": 12,
    "network": {"image_iou": 0.81, "iou": 0.9, "image_ap": 0.5, "auroc": None},
    "otsu": {"image_iou": 0.61, "iou": 0.7, "image_ap": 0.25},
    "intervals": {
        "network": {"image_iou": [0.75, 0.86], "iou": [0.8, 0.95], "image_ap": [0.4, 0.6]},
        "otsu": {},
    },
    "by_kind": {
        "network": {k: {"images": n, "image_iou": n / 20, "image_ap": 0.5} for k, n in KINDS},
        "otsu": {k: {"images": n, "image_iou": n / 30, "image_ap": 0.1} for k, n in KINDS},
    },
    "resampled": {"what": "groups", "how_many": 4, "caution": "with fewer than ten groups …"},
}
CONFIG = {"seed_everything": 3, "data": {"init_args": {"root": "/home/me/mine", "fold": None}}}


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a run, whose checkpoint is of an older version: it says nothing of it."""
    best = tmp_path / "run/checkpoints/best.ckpt"
    best.parent.mkdir(parents=True)
    shutil.copy(checkpoint, best)
    about = {"started": "2026-01-02", "versions": versions(), "split_sha256": "5e", "command": []}
    git = {"commit": "c0ffee", "branch": "main", "changed": True, "untracked": ["secret"]}
    for name, content in (
        ("run.json", {**about, "git": git, "tested": scored_as(best)}),
        ("split.json", {"data": "mine-1f2e", "counts": {"train": 7, "val": 2, "test": 12}}),
        ("resources.json", {"cpu_seconds": 5400.0, "fit_seconds": 7200, "device": "cpu"}),
        ("scores.json", SCORES),
        ("config.yaml", CONFIG),
    ):
        (tmp_path / "run" / name).write_text(json.dumps(content))
    return tmp_path / "run"


def best(run: Path) -> Path:
    return run / "checkpoints/best.ckpt"


def head(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_what_is_not_known_is_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", f"--ckpt_path={checkpoint}"]) == 0
    text = capsys.readouterr().out
    card = ModelCard(text)
    assert card.data.license == "unknown" and card.data.library_name == "biomedical-segmentation"
    assert card.data.eval_results is None and "## Scores\n\nNot known.\n" in card.text
    assert "- scores on test images\n" in text and "- the licence of the weights\n" in text
    assert "Tiny" in text and "| cost | not known |" in text


def test_a_card_in_the_runs_folder_is_read_back(run: Path) -> None:
    text = model_card(best(run), "cc-by-4.0")
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0" and card.data.datasets == ["mine"]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"image_iou": 0.81, "iou": 0.9, "image_ap": 0.5}
    (result,) = head(text)["model-index"][0]["results"]
    assert result["metrics"][0]["name"].endswith("(95 % interval 0.750 to 0.860)")
    assert "| IoU, mean over images | 0.810 | 0.750 to 0.860 | 0.610 |" in text
    assert "| AUROC, all pixels | – | – | – |" in text
    assert "| histology | 9 | 0.450 | 0.500 | 0.300 | 0.100 |" in text
    assert "| (none) | 3 | " in text and "Caution: with fewer than ten groups" in text
    assert "1.50 processor hours in 2 h 0 min on cpu |" in text
    assert "commit `c0ffee`, changed" in text and "SHA-256 `5e`" in text and "`mine-1f2e`" in text
    assert "root: mine\n" in text and "secret" not in text and "/home" not in text
    assert "| train | 7 images |" in text and "Not known" not in text


def test_classes_are_named(checkpoint: Path, tmp_path: Path) -> None:
    content = read_checkpoint(checkpoint)
    target = {"class_path": "segmentation.targets.Classes", "init_args": {"names": ["b", "tumour"]}}
    content["segmentation"]["config"]["init_args"]["target"] = target
    torch.save(content, tmp_path / "x.ckpt")
    text = model_card(tmp_path / "x.ckpt")
    assert "A network that finds b, tumour in " in text and "Classes (names b tumour)" in text


def test_scores_are_shown_of_the_tested_checkpoint_alone(run: Path) -> None:
    assert "0.810" in model_card(best(run))
    path = shutil.copy(best(run), run / "checkpoints/last.ckpt")
    assert "0.810" in model_card(path)  # the same file, whatever it is called
    (run / "checkpoints/best.tuned.json").write_text("{}")
    with pytest.raises(UserError, match=r"best\.tuned\.json: cannot be read"):
        model_card(best(run))
    sha = scored_as(best(run))["checkpoint_sha256"]
    known = {"checkpoint_sha256": sha, "target": {"threshold": 0.25}}
    (run / "checkpoints/best.tuned.json").write_text(json.dumps(known))
    text = model_card(best(run))  # tuned after it was tested
    assert "0.810" not in text and "threshold 0.25" in text
    content = torch.load(path, weights_only=True) | {"epoch": 7, "global_step": 9}
    torch.save(content, path)
    text = model_card(path)
    assert "0.810" not in text and "epoch 8, step 9" in text
    about = json.loads((run / "run.json").read_text())
    del about["tested"]  # of an older version
    (run / "run.json").write_text(json.dumps(about))
    assert "0.810" in model_card(best(run)) and "0.810" not in model_card(path)


def test_an_export_takes_with_it_what_is_known(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "given/away.ckpt"
    assert main(["export", f"--ckpt_path={best(run)}", f"--output={output}", "--half"]) == 0
    here, there = (model_card(path).splitlines() for path in (best(run), output))
    differ = [(a, b) for a, b in zip(here, there, strict=True) if a != b]
    assert len(differ) == 2 and "away.ckpt" in differ[0][1]
    assert "before the network was exported" in differ[1][1]
    record = read_checkpoint(output)["segmentation"]["record"]
    assert json.loads(json.dumps(record)) == record
    again = tmp_path / "again.ckpt"
    assert main(["export", f"--ckpt_path={output}", f"--output={again}"]) == 0
    assert read_checkpoint(again)["segmentation"]["record"] == record


def test_a_record_names_no_folders() -> None:
    about = {"started": "now", "command": ["/home/me/x"], "git": None, "versions": {}}
    config = CONFIG | {"run": {"weights": "/home/me/first.ckpt", "root": "/home/me/runs"}}
    record = began(about, yaml.safe_dump(config), "mine-1f")
    assert record["settings"]["weights"] == "first.ckpt" and "/home" not in json.dumps(record)
    windows = {"data": {"root": r"C:\Users\me\mine", "url": "a/b"}}
    assert began(about, yaml.safe_dump(windows), None)["settings"]["data"] == {
        "root": "mine",
        "url": "a/b",
    }
    assert record["git"] is None and record["content"] == "mine-1f"


@pytest.mark.parametrize(
    "record",
    [
        5,
        {"parts": 3},
        {"scores": {"images": 3}},
        {"spent": {"cpu_seconds": "a"}},
        {"git": "c0ffee"},
    ],
)
def test_a_strangers_record_is_refused(record: Any, checkpoint: Path, tmp_path: Path) -> None:
    content = read_checkpoint(checkpoint)
    content["segmentation"]["record"] = record
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: its record"):
        model_card(tmp_path / "x.ckpt")


def test_other_files_and_licences_are_refused(
    run: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, more, says in (
        (run / "nothing.ckpt", [], "no such checkpoint"),
        (run / "config.yaml", [], "not a checkpoint"),
        (checkpoint, ["--license=CC BY 4.0"], "must be an identifier such as cc-by-4.0"),
    ):
        assert says in refusal(capsys, ["card", f"--ckpt_path={path}", *more])
    (run / "split.json").write_text('{"counts": 5}')
    assert "in its run's folder, is broken" in refusal(capsys, ["card", f"--ckpt_path={best(run)}"])
    (run / "scores.json").write_text("[")
    (run / "split.json").unlink()
    assert "scores.json: cannot be read" in refusal(capsys, ["card", f"--ckpt_path={best(run)}"])
