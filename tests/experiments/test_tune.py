"""Tuning: what is found, where it is kept, and who follows it."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segmentation.__main__ import main
from segmentation.checkpoints import load_task, read_checkpoint, sidecar
from segmentation.errors import UserError
from segmentation.targets import Contour, Distance, Flow, Foreground, Target
from segmentation.training.signals import STATUS
from segmentation.training.tuning import Search
from tests.helpers import arguments, fit, refusal, scores


def pair_of_discs() -> np.ndarray:
    """Two discs that overlap by a bridge, one alone, and a speck of 6 pixels."""
    labels = np.zeros((80, 96), np.int32)
    for i, (y, x, r) in enumerate([(30, 25, 12), (30, 47, 12), (60, 75, 9)], start=1):
        disc = np.zeros(labels.shape, np.uint8)
        cv2.circle(disc, (x, y), r, 1, -1)
        labels[(disc > 0) & (labels == 0)] = i
    return labels


def blurred(labels: np.ndarray) -> np.ndarray:
    """A network that is too careful: .45 at most, and it sees a speck that is none."""
    probs = 0.45 * (labels > 0).astype(np.float32)
    probs[5:7, 80:83] = 0.45
    return probs[None]


def search(target: Target, score: str = "image_ap") -> Search:
    made = Search(target, score)
    made.add(blurred(pair_of_discs()), pair_of_discs())
    return made


def test_two_processes_choose_what_one_does(tmp_path: Path) -> None:
    """One has all the images, the other none."""
    labels, other = pair_of_discs(), pair_of_discs()[::-1].copy()
    alone = Search(Foreground(), "image_iou")  # of the threshold alone: a few settings
    for truth in (labels, other):
        alone.add(blurred(truth), truth)
    wanted = alone.run(), alone.settings()
    torch.multiprocessing.spawn(_search_in, (tmp_path / "rank", ([labels, other], [])), nprocs=2)
    for rank in range(2):
        assert torch.load(f"{tmp_path / 'rank'}{rank}") == wanted


def _search_in(rank: int, place: Path, shares: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}.meeting", rank=rank, world_size=2
    )
    mine = Search(Foreground(), "image_iou")
    for truth in shares[rank]:
        mine.add(blurred(truth), truth)
    torch.save((mine.run(silent=True), mine.settings()), f"{place}{rank}")
    torch.distributed.destroy_process_group()


def test_the_settings_that_were_wrong_are_found() -> None:
    found = search(Foreground())
    assert found.value() == 0
    score = found.run()
    settings = found.settings()
    assert settings["threshold"] < 0.45 and settings["seed_distance"] > 0
    assert 6 < settings["min_size"] <= 40 and settings["fill_holes"] is False
    assert score == found.value() > 0.9
    labels = found.target.decode(blurred(pair_of_discs()))
    assert labels.max() == 3  # what it found is what decoding then does


def test_settings_in_pixels_are_meant_at_the_networks_scale() -> None:
    small = pair_of_discs()[::2, ::2]
    found, alone = Search(Foreground(), "ap50"), Search(Foreground(), "ap50")
    found.add(blurred(pair_of_discs())[:, ::2, ::2], small, scale=2.0)
    alone.add(blurred(pair_of_discs())[:, ::2, ::2], small)
    for search_, distance in ((found, 12), (alone, 6)):
        search_.target.threshold, search_.target.min_size = 0.4, 12 if search_ is found else 3
        search_.target.seed_distance = distance
    assert found.value() == alone.value() > 0.5


def test_pixels_are_a_matter_of_the_threshold_alone() -> None:
    found = search(Foreground(), "image_iou")
    assert found.run() > 0.98
    assert {k: v for k, v in found.settings().items() if k != "threshold"} == {
        "min_size": 0,
        "fill_holes": False,
        "seed_distance": 0,
    }
    assert len(found.tried) <= len(Target.tunable["threshold"]), "the same more than once"


def test_what_does_not_matter_stays() -> None:
    labels = pair_of_discs()
    labels[labels == 2] = 0
    own = Foreground(threshold=0.6, min_size=15, seed_distance=3)
    found = Search(own, "image_ap")
    found.add((labels > 0).astype(np.float32)[None], labels)
    assert found.run() == 1
    assert found.settings() == {
        "threshold": 0.6,
        "min_size": 15,
        "fill_holes": False,
        "seed_distance": 3,
    }


@pytest.mark.parametrize("target", [Foreground(), Contour(), Distance(), Flow()])
def test_every_tunable_setting_is_an_argument_that_takes_its_values(target: Target) -> None:
    for name, values in target.tunable.items():
        assert getattr(target, name) in values
        for value in values:
            assert getattr(type(target)(**{name: value}), name) == value


@pytest.fixture(scope="module")
def run(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(dsb_root, tmp_path_factory.mktemp("tune"))


def tuned(run: Path, *more: str) -> dict[str, Any]:
    best = run / "checkpoints/best.ckpt"
    argv = ["tune", f"--config={run / 'config.yaml'}", f"--ckpt_path={best}", *more]
    assert main([*argv, f"--run.root={run / 'tuning'}"]) == 0
    content: dict[str, Any] = json.loads(sidecar(best).read_text())
    return content


def test_the_command_writes_a_sidecar_that_test_and_predict_follow(
    run: Path, dsb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    own = load_task(best).target
    content = tuned(run, "--score=image_iou")
    assert content["after"] >= content["before"] and content["images"] == 2
    assert "which test and predict follow" in capsys.readouterr().out
    threshold = content["target"]["threshold"]
    assert max(row["image_iou"] for row in content["tried"]) == round(content["after"], 6)
    assert load_task(best).target.threshold == threshold
    untuned = read_checkpoint(best, tuned=False)["segmentation"]["config"]["init_args"]["target"]
    assert (untuned.get("init_args") or {}).get("threshold", 0.5) == own.threshold

    other = 0.3 if threshold != 0.3 else 0.7  # so that it makes a difference
    content["target"]["threshold"] = other
    sidecar(best).write_text(json.dumps(content))
    ious = []
    for typed in ([], [f"--model.target.threshold={threshold}"]):
        before = set((run / "tested").glob("*/*"))
        argv = arguments("test", dsb_root, run / "tested", f"--ckpt_path={best}", *typed)
        assert main(argv) == 0
        (folder,) = set((run / "tested").glob("*/*")) - before
        config = (folder / "config.yaml").read_text()
        assert f"threshold: {threshold if typed else other}" in config  # what is typed wins
        ious.append(scores(folder)["network"]["iou"])
    assert ious[0] != ious[1]

    again = tuned(run, "--score=image_iou")  # from the checkpoint's own, not from the last search
    assert again["before"] == content["before"] and again["target"]["threshold"] == threshold


def test_a_signal_during_the_search_ends_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no batch that it could wait for, and nothing half-written."""

    def told(*_: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 1.0

    monkeypatch.setattr(Search, "run", told)
    before = sorted((run / "checkpoints").iterdir())
    with pytest.raises(SystemExit) as left:
        tuned(run)
    assert left.value.code == STATUS
    assert sorted((run / "checkpoints").iterdir()) == before


def test_a_sidecar_of_another_checkpoint_is_refused_and_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    content = tuned(run)
    stale = {**content, "checkpoint_sha256": "0" * 64}
    sidecar(best).write_text(json.dumps(stale))
    with pytest.raises(UserError, match=r"best\.tuned\.json: was tuned for another checkpoint"):
        load_task(best)
    assert tuned(run)["checkpoint_sha256"] == content["checkpoint_sha256"]
    sidecar(best).write_text("{")
    with pytest.raises(UserError, match=r"best\.tuned\.json: cannot be read .*delete it"):
        load_task(best)
    sidecar(best).unlink()


def test_what_cannot_be_tuned_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    argv = ["tune", f"--config={run / 'config.yaml'}", f"--ckpt_path={best}", "--score=beauty"]
    assert "--score beauty: not a score to tune for; choose from image_ap50" in refusal(
        capsys, argv
    )


def test_an_ensemble_is_the_mean_of_its_members(run: Path, dsb_root: Path, tmp_path: Path) -> None:
    other = fit(dsb_root, tmp_path, "--seed_everything=7")
    both = [path / "checkpoints/best.ckpt" for path in (run, other)]
    first, second = (load_task(path) for path in both)
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        wanted = (first(image) + second(image)) / 2
        first.add_member(second, "second")
        torch.testing.assert_close(first(image), wanted)

    argv = arguments("test", dsb_root, tmp_path / "tested", f"--ckpt_path={both[0]}")
    assert main([*argv, f"--run.ensemble=[{both[1]}]"]) == 0
    (folder,) = (tmp_path / "tested").glob("*/*")
    assert scores(folder)["network"] != scores(run)["network"]


def test_members_that_do_not_fit_or_have_seen_the_test_are_refused(
    run: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    first, second = load_task(best), load_task(best)
    second.preprocess = type(second.preprocess)(channels=1)
    with pytest.raises(UserError, match=r"second: its preprocess\.\w+ is .* the first's"):
        first.add_member(second, "second")
    second = load_task(best)
    second.predictor.target = Contour()
    with pytest.raises(UserError, match=r"second: its target is Contour \(3 classes\), the first"):
        first.add_member(second, "second")

    other = fit(dsb_root, tmp_path, "--data.split.seed=5") / "checkpoints/best.ckpt"
    argv = arguments("test", dsb_root, tmp_path / "tested", f"--ckpt_path={best}")
    assert "test images were trained on by this" in refusal(
        capsys, [*argv, f"--run.ensemble=[{other}]"]
    )
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, f"--run.ensemble=[{other}]"))
    assert "--run.ensemble is of test alone" in line


def test_fit_ends_by_tuning_and_tests_both(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "--model.target.threshold=0.7"
    folder = fit(dsb_root, tmp_path / "a", "--run.tune=image_iou", typed)
    printed = capsys.readouterr().out
    best = folder / "checkpoints/best.ckpt"
    content = json.loads(sidecar(best).read_text())
    assert content["score"] == "image_iou" and content["images"] == 2
    numbers = f"{content['before']:.4f} as trained, {content['after']:.4f} tuned on 2 images"
    assert f"val/image_iou {numbers}" in printed
    both = scores(folder)
    assert "as trained" in both and both["network"]["iou"] != both["as trained"]["iou"]
    assert "tuned    95 % interval as trained" in printed

    # What predict and test follow is what was tested as tuned; and the rest is as without.
    argv = arguments("test", dsb_root, tmp_path / "tested", f"--ckpt_path={best}")
    assert main(argv) == 0
    (tested,) = (tmp_path / "tested").glob("*/*")
    assert scores(tested)["network"] == both["network"]
    plain = fit(dsb_root, tmp_path / "b", "--run.tune=false", typed)
    assert not sidecar(plain / "checkpoints/best.ckpt").exists()
    untuned = both["as trained"]
    plainly = {name: scores(plain)["network"][name] for name in untuned}
    assert untuned == pytest.approx(plainly, rel=1e-12, nan_ok=True)
    one, other = (
        read_checkpoint(run / "checkpoints/best.ckpt", tuned=False) for run in (folder, plain)
    )
    assert all(torch.equal(w, other["state_dict"][k]) for k, w in one["state_dict"].items())
    logs = [(run / "metrics.csv").read_text().splitlines()[:-1] for run in (folder, plain)]
    assert len(logs[0]) == len(logs[1]), "the validation of the search is not logged"


def test_what_chooses_the_epoch_is_what_the_decoding_is_tuned_for(
    dsb_root: Path, tmp_path: Path
) -> None:
    for monitor, score in (("val/ap50", "ap50"), ("val/image_seg", "image_ap")):
        chosen = f"--checkpoint.monitor={monitor}"
        folder = fit(dsb_root, tmp_path / score, "--run.tune=true", chosen)
        best = folder / "checkpoints/best.ckpt"
        of_fit = json.loads(sidecar(best).read_text())
        assert of_fit["score"] == score
        argv = arguments("tune", dsb_root, tmp_path / "t", f"--ckpt_path={best}", chosen)
        assert main(argv) == 0
        assert json.loads(sidecar(best).read_text()) == of_fit, "the command does the same"


def test_a_score_that_cannot_be_tuned_for_is_told_before_the_training(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for score, said in (
        ("beauty", "run.tune: beauty: not a score to tune for; choose from image_ap50"),
        ("class_pq", "run.tune: class_pq: the checkpoint tells no classes apart; use pq"),
    ):
        assert said in refusal(capsys, arguments("fit", dsb_root, tmp_path, f"--run.tune={score}"))


def test_a_quick_trial_is_not_tuned(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--trainer.fast_dev_run=true", "--run.tune=true"]
    assert main(arguments("fit", dsb_root, tmp_path / "q", *typed)) == 0
    assert "decoding" not in capsys.readouterr().out
