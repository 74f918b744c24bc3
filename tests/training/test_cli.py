"""``fit``, ``validate`` and ``test``: what a run leaves, repeats, resumes and refuses."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from segmentation.__main__ import main
from segmentation.card import model_card
from segmentation.checkpoints import load_task, read_checkpoint
from segmentation.errors import UserError
from segmentation.training.arguments import composed
from tests.helpers import arguments, fit, refusal, scores, smp_arguments


@pytest.fixture(scope="module")
def trained(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a second CSV log."""
    runs = tmp_path_factory.mktemp("runs")
    second = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    more = [second, f"--trainer.logger.save_dir={runs / 'logs'}"]
    return fit(dsb_root, runs / "runs", *more)


def best(run: Path) -> str:
    return f"--ckpt_path={run / 'checkpoints/best.ckpt'}"


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    return found


def test_fit_leaves_everything_in_the_runs_own_folder(trained: Path) -> None:
    names = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert {
        *("config.yaml", "split.json", "run.json", "resources.json", "metrics.csv", "report.html"),
        *("scores.json", "per_image.csv", "summary.json", "test_curves.json"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    } <= names
    assert not any("unfinished" in name or "resume" in name for name in names)
    assert sum(name.startswith("overlays/") for name in names) == 9
    header = set((trained / "metrics.csv").read_text().splitlines()[0].split(","))
    wanted = {"val/iou", "val/image_iou", "val/auroc", "val/loss", "train/loss_epoch", "test/f1"}
    assert wanted <= header
    found = scores(trained)
    assert found["images"] == 3
    assert 0 <= found["network"]["iou"] <= 1 and 0 <= found["otsu"]["iou"] <= 1
    split = json.loads((trained / "split.json").read_text())
    assert split["counts"] == {"train": 7, "val": 2, "test": 3}
    # Nothing of a run may lie outside its folder.
    assert not Path("lightning_logs").exists() and not Path("wandb").exists()


def test_another_logger_stands_beside_the_runs_own(trained: Path) -> None:
    (logged,) = (trained.parents[2] / "logs").rglob("metrics.csv")
    seen = []
    for path in (logged, trained / "metrics.csv"):
        with path.open(newline="") as file:
            seen.append([row["val/iou"] for row in csv.DictReader(file) if row["val/iou"]])
    assert seen[0] == seen[1] and len(seen[0]) == 1


def test_the_runs_own_config_repeats_it_exactly(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = ["fit", f"--config={trained / 'config.yaml'}", f"--run.root={tmp_path}"]
    assert main([*again, "--verbose"]) == 0
    assert "GPU available" in caplog.text
    (run,) = tmp_path.glob("*/*")
    assert scores(run) == scores(trained)
    assert all(torch.equal(weights(trained)[name], w) for name, w in weights(run).items())


def test_a_checkpoint_holds_plain_values_and_rebuilds_its_task(trained: Path) -> None:
    path = trained / "checkpoints/best.ckpt"
    stored = read_checkpoint(path)["segmentation"]
    assert json.loads(json.dumps(stored["preprocess"]))["intensity"] == "percentile"
    train = json.loads((trained / "split.json").read_text())["train"]
    assert sorted(stored["trained_on"].values()) == sorted(train)
    assert {len(digest) for digest in stored["trained_on"]} == {32}
    assert len(stored["chosen_on"]) == 2 and stored["record"]["name"] == "dsb2018"
    parts = stored["record"]["parts"]
    assert {name: part["images"] for name, part in parts.items()} == {
        "train": 7,
        "val": 2,
        "test": 3,
    }
    train_digest = hashlib.sha256("\n".join(sorted(stored["trained_on"])).encode()).hexdigest()
    assert parts["train"]["sha256"] == train_digest
    assert stored["record"]["settings"]["data"]["init_args"]["crop"] == 32
    text = model_card(path)
    assert f"{scores(trained)['network']['iou']:.3f}" in text and train_digest[:16] in text
    assert "0.00 processor hours" in text and "Otsu's threshold" in text
    task = load_task(path)
    assert not task.training and task.config["init_args"]["net"]["init_args"]["width"] == 4
    probs = task(torch.randint(0, 256, (1, 3, 37, 50), dtype=torch.uint8))
    assert probs.shape == (1, 1, 37, 50) and probs.min() >= 0 and probs.max() <= 1


def test_validate_prints_the_main_scores_once(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("validate", dsb_root, tmp_path, best(trained))) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^val/(?:iou|image_ap|loss) +\d\.\d{4}$", printed, re.MULTILINE)
    assert "metrics.csv" in printed and printed.count("val/iou") == 1 and "─" not in printed


def test_test_takes_the_model_from_the_checkpoint_and_what_is_typed_wins(
    trained: Path, dsb_root: Path, tmp_path: Path
) -> None:
    argv = arguments("test", dsb_root, tmp_path / "a", best(trained), config="data/dsb2018.yaml")
    assert main([a for a in argv if not a.startswith("--model.")]) == 0
    (run,) = (tmp_path / "a").glob("*/*")
    assert run.name.endswith("-test") and scores(run)["network"] == scores(trained)["network"]
    typed = [best(trained), "--model.target.threshold=0.999999"]
    assert main(arguments("test", dsb_root, tmp_path / "b", *typed)) == 0
    (run,) = (tmp_path / "b").glob("*/*")
    assert scores(run)["network"]["recall"] < scores(trained)["network"]["recall"]
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert model["init_args"]["target"]["init_args"]["threshold"] == 0.999999


def test_what_does_not_fit_the_checkpoint_is_refused(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = trained / "checkpoints/last.ckpt"
    for command, typed, said in (
        ("test", [best(trained), "--model.preprocess.clahe=true"],
         "preprocess.clahe is True but the checkpoint was trained with False"),
        ("test", [best(trained), "--data.split.seed=7"], "trained on"),
        ("fit", [f"--ckpt_path={last}", "--model.optimizer.lr=1e-5"],
         "model.optimizer.lr is 1e-05 but the checkpoint's is 0.005"),
        ("fit", [f"--run.weights={last}", "--data.split.seed=7"], "trained on by this checkpoint"),
        ("test", [], "test needs --ckpt_path FILE"),
    ):  # fmt: skip
        assert said in refusal(capsys, arguments(command, dsb_root, tmp_path, *typed))


def test_a_training_goes_on_and_another_starts_from_its_weights(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = trained / "checkpoints/last.ckpt"
    run = fit(dsb_root, tmp_path, f"--ckpt_path={last}", "--trainer.max_epochs=2")
    assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 1
    # The last checkpoint is of the last epoch, though nothing is learned and the first is the best.
    frozen = ["--model.optimizer.lr=0", "--model.net.batch_norm=false", "--trainer.max_epochs=3"]
    # A second checkpoint, which keeps each epoch, does not decide which weights are tested.
    second = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    every = [second, "--trainer.callbacks.filename={epoch}", "--trainer.callbacks.save_top_k=-1"]
    first = fit(dsb_root, tmp_path / "frozen", *frozen, "--data.sampling.length=4", *every)
    assert f"weights   {first / 'checkpoints/best.ckpt'}" in capsys.readouterr().out
    assert (first / "checkpoints/epoch=2.ckpt").exists()
    assert read_checkpoint(first / "checkpoints/best.ckpt")["epoch"] == 0
    assert read_checkpoint(first / "checkpoints/last.ckpt")["epoch"] == 2
    start = f"--run.weights={first / 'checkpoints/last.ckpt'}"
    run = fit(dsb_root, tmp_path / "anew", start, *frozen, "--data.sampling.length=4")
    assert all(torch.equal(weights(first)[name], w) for name, w in weights(run).items())


def test_encoder_weights_are_not_fetched_for_a_checkpoint(
    dsb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = smp_arguments(dsb_root, tmp_path, "--model.net.encoder_weights=null")
    assert main(argv) == 0
    (run,) = tmp_path.glob("*/*")
    checkpoint, path = read_checkpoint(run / "checkpoints/best.ckpt"), tmp_path / "pretrained.ckpt"
    net = checkpoint["segmentation"]["config"]["init_args"]["net"]
    net["init_args"]["encoder_weights"] = "imagenet"
    torch.save(checkpoint, path)

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", no_network)
    load_task(path)
    argv = [f"--config={run / 'config.yaml'}", f"--run.root={tmp_path / 't'}"]
    assert main(["test", *argv, f"--ckpt_path={path}"]) == 0


SMP = ["--model.net=segmentation_models_pytorch.Unet", "--model.net.encoder_weights=null"]
BAD: list[tuple[list[str], list[str]]] = [
    (["--model.net=segmentation.models.Nope"], ["--model.net", "segmentation.models.Nope"]),
    (["--model.net=Nope"], ["--model.net Nope: no class is called Nope; write it as module.Class"]),
    (["--data.split=Random"], ["no class is called Random; write it as module.Class"]),
    (["--model.net.widht=8"], ["--model.net.widht", "did you mean model.net.width?"]),
    (["--model.net.width=abc"], ["--model.net.width", "abc", "a whole number"]),
    (["--model.net.depth=0"], ["model.net: UNet: depth must be", "got 0"]),
    (["--model.net.classes=2"], ["gives 2 class(es)", "needs 1", "net.classes"]),
    (["--model.preprocess.channels=1"], ["takes 3 channel(s)", "makes 1", "net.in_channels"]),
    (["--data.augmentation=heavy"], ["'heavy'", "choose from", "light"]),
    (["--data.crop=2000"], ["2000×2000", "64×80", "lower it"]),
    (["--data.root=/nope"], ["/nope", "does not exist", "stage1_train.zip"]),
    (["--data.split.test=16"], ["test=16", "16"]),
    (["--data.foo=1"], ["--data.foo"]),
    (["--trainer.foo=1"], ["--trainer.foo"]),
    (["--trainer.precision=17"], ["--trainer.precision 17", "16-mixed"]),
    (["--config=nope.yaml"], ["nope.yaml", "no such config"]),
    (["--ckpt_path=/nope.ckpt"], ["/nope.ckpt", "no such checkpoint"]),
    (["--run.weights=/nope.ckpt"], ["/nope.ckpt", "no such checkpoint"]),
    (["--run.root=/dev/null"], ["/dev/null", "--run.root"]),
    ([*SMP, "--model.net.encoder_name=resnetzz"], ["resnetzz", "resnet18"]),
    (["--model.target=segmentation.targets.Contour", "--model.net.classes=3"],
     ["model.loss: BCEDice does not fit model.target Contour"]),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "said"), BAD, ids=[" ".join(typed) for typed, _ in BAD])
def test_bad_input_gets_one_clear_line(
    typed: list[str],
    said: list[str],
    dsb_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("fit", dsb_root, tmp_path)
    if SMP[0] in typed:
        argv = [a for a in argv if not a.startswith(("--model.net.width", "--model.net.depth"))]
    line = refusal(capsys, [*argv, *typed])
    assert all(word in line for word in said), line
    assert len(line) < 1000
    assert not list(tmp_path.iterdir())  # no folder of a run that never was


def test_what_goes_wrong_in_training_is_one_line_too(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    high = [
        "--model.optimizer.lr=1e30",
        "--data.sampling.length=32",
        "--trainer.gradient_clip_val=null",
    ]
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, *high))
    for word in ("training loss became nan", "epoch 0, batch", "model.optimizer.lr"):
        assert word in line
    stop = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"
    never = ["--trainer.limit_val_batches=0", "--trainer.callbacks.monitor=val/loss"]
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, stop, *never))
    assert "val/loss" in line and "nothing is validated" in line


def test_compose(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.yaml", tmp_path / "part.yaml"
    part.write_text("trainer: {max_epochs: 3}\n")
    whole.write_text("compose: [part.yaml]\nrun: {name: x}\n")
    words = composed(["fit", "--a.b=1", "--config", str(whole), "--c", "2"])
    assert words[0] == "fit" and words[-3:] == ["--a.b=1", "--c", "2"]
    texts: list[Any] = [yaml.safe_load(words[i]) for i in (2, 4)]
    assert texts == [{"trainer": {"max_epochs": 3}}, {"run": {"name": "x"}}]
    for text, said in (
        ("compose: [whole.yaml]", "composes itself"),
        ("a: [1", "not valid YAML"),
        ("just text", "a mapping"),
    ):
        part.write_text(text)
        with pytest.raises(UserError, match=said):
            composed(["fit", "--config", str(whole)])


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_without_a_validation_the_last_weights_are_tested(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = "--trainer.callbacks=lightning.pytorch.callbacks.ModelSummary"  # not a list of them
    run = fit(dsb_root, tmp_path, "--trainer.limit_val_batches=0", one)
    assert "the last weights are tested" in capsys.readouterr().out
    assert scores(run)["images"] == 3
