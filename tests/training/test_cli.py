import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from segmentation.__main__ import main
from segmentation.checkpoints import load_task, read_checkpoint
from segmentation.errors import UserError
from segmentation.training.cli import RUN_FOLDER, composed, run_folder
from tests.helpers import arguments, fit, refusal, scores, smp_arguments


@pytest.fixture(scope="module")
def trained(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(dsb_root, tmp_path_factory.mktemp("runs"))


def test_fit_leaves_everything_in_the_runs_own_folder(trained: Path) -> None:
    names = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "split.json",
        "resources.json",
        "metrics.csv",
        "scores.json",
        "per_image.csv",
    } <= names
    assert {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert sum(name.startswith("overlays/") for name in names) == 9
    header = (trained / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {
        "val/iou",
        "val/image_iou",
        "val/auroc",
        "val/loss",
        "train/loss_epoch",
        "test/f1",
    } <= set(header)
    found = scores(trained)
    assert found["images"] == 3
    assert 0 <= found["network"]["iou"] <= 1 and 0 <= found["otsu"]["iou"] <= 1
    split = json.loads((trained / "split.json").read_text())
    assert split["counts"] == {"train": 7, "val": 2, "test": 3}
    # Nothing of a run may lie outside its folder.
    assert not Path("lightning_logs").exists() and not Path("wandb").exists()


def test_the_pooled_scores_agree_with_the_rows_per_image(trained: Path) -> None:
    with (trained / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3  # the network, Otsu's threshold and nothing
    ours = [row for row in rows if row["method"] == "network"]
    tp, fp, fn = (sum(int(row[name]) for row in ours) for name in ("tp", "fp", "fn"))
    assert scores(trained)["network"]["iou"] == pytest.approx(tp / (tp + fp + fn), abs=1e-6)
    mean = sum(float(row["iou"]) for row in ours) / 3
    assert scores(trained)["network"]["image_iou"] == pytest.approx(mean, abs=1e-5)


def test_the_runs_own_config_repeats_it_exactly(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["fit", f"--config={trained / 'config.yaml'}", f"--run.root={tmp_path}"]) == 0
    assert "GPU available" in caplog.text and "Tip:" not in caplog.text
    (again,) = tmp_path.glob("*/*")
    assert scores(again) == scores(trained)
    first, second = (
        read_checkpoint(r / "checkpoints/last.ckpt")["state_dict"] for r in (trained, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    yield
    os.environ.pop(RUN_FOLDER, None)


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = []
    for _ in range(3):
        os.environ.pop(RUN_FOLDER, None)
        folders.append(run_folder(tmp_path, "name", "fit"))
    assert len(set(folders)) == 3
    assert os.environ[RUN_FOLDER] == str(folders[-1])
    assert run_folder(tmp_path, "name", "fit") == folders[-1]  # another process of the same run


def test_launched_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    folders = set()
    for _ in range(2):
        os.environ.pop(RUN_FOLDER, None)
        folders.add(run_folder(tmp_path, "name", "fit"))
    assert folders == {tmp_path / "name" / "job-17"}


def test_a_checkpoint_holds_plain_values_and_rebuilds_its_task(trained: Path) -> None:
    path = trained / "checkpoints/best.ckpt"
    stored = read_checkpoint(path)["segmentation"]
    assert json.loads(json.dumps(stored["preprocess"]))["intensity"] == "percentile"
    train = json.loads((trained / "split.json").read_text())["train"]
    assert stored["trained_on"] == {"dsb2018": sorted(train)}
    task = load_task(path)
    assert not task.training and task.config["init_args"]["net"]["init_args"]["width"] == 4
    image = torch.randint(0, 256, (1, 3, 37, 50), dtype=torch.uint8)
    probs = task(image)
    assert probs.shape == (1, 1, 37, 50) and probs.min() >= 0 and probs.max() <= 1


def test_test_needs_nothing_of_the_model_but_the_checkpoint(
    trained: Path, dsb_root: Path, tmp_path: Path
) -> None:
    argv = arguments(
        "test",
        dsb_root,
        tmp_path,
        f"--ckpt_path={trained / 'checkpoints/best.ckpt'}",
        config="data/dsb2018.yaml",
    )
    argv = [a for a in argv if not a.startswith("--model.")]
    assert main(argv) == 0
    (run,) = tmp_path.glob("*/*")
    assert run.name.endswith("-test")
    assert scores(run)["network"] == scores(trained)["network"]


def test_what_is_typed_wins_over_the_checkpoint(
    trained: Path, dsb_root: Path, tmp_path: Path
) -> None:
    best = f"--ckpt_path={trained / 'checkpoints/best.ckpt'}"
    assert (
        main(arguments("test", dsb_root, tmp_path, best, "--model.target.threshold=0.999999")) == 0
    )
    (run,) = tmp_path.glob("*/*")
    assert scores(run)["network"]["recall"] < scores(trained)["network"]["recall"]
    assert (
        yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["target"][
            "init_args"
        ]["threshold"]
        == 0.999999
    )


def test_another_preprocessing_than_the_trained_one_is_refused(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = f"--ckpt_path={trained / 'checkpoints/best.ckpt'}"
    argv = arguments("test", dsb_root, tmp_path, best, "--model.preprocess.clahe=true")
    assert "preprocess.clahe is True but the checkpoint was trained with False" in refusal(
        capsys, argv
    )


def test_testing_on_training_images_is_refused(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = f"--ckpt_path={trained / 'checkpoints/best.ckpt'}"
    argv = arguments("test", dsb_root, tmp_path, best, "--data.split.seed=7")
    assert "trained on" in refusal(capsys, argv)


def test_resuming_continues_and_refuses_another_optimizer(
    trained: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = f"--ckpt_path={trained / 'checkpoints/last.ckpt'}"
    argv = arguments("fit", dsb_root, tmp_path, last, "--model.optimizer.lr=1e-5")
    line = refusal(capsys, argv)
    assert (
        "model.optimizer.lr is 1e-05 but the checkpoint's is 0.005" in line
        and "--run.weights" in line
    )
    run = fit(dsb_root, tmp_path, last, "--trainer.max_epochs=2")
    assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 1
    weights = f"--run.weights={trained / 'checkpoints/last.ckpt'}"
    argv = arguments("fit", dsb_root, tmp_path / "leak", weights, "--data.split.seed=7")
    assert "trained on by this checkpoint" in refusal(capsys, argv)
    run = fit(dsb_root, tmp_path / "anew", weights, "--model.optimizer.lr=0", "--data.length=4")
    before = read_checkpoint(trained / "checkpoints/last.ckpt")["state_dict"]["net.head.weight"]
    assert torch.equal(
        read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]["net.head.weight"], before
    )


def test_the_last_checkpoint_is_of_the_last_epoch(dsb_root: Path, tmp_path: Path) -> None:
    """Also when the best epoch was an earlier one, here the first: nothing is learned."""
    frozen = ["--model.optimizer.lr=0", "--model.net.batch_norm=false", "--trainer.max_epochs=3"]
    run = fit(dsb_root, tmp_path, *frozen)
    assert read_checkpoint(run / "checkpoints/best.ckpt")["epoch"] == 0
    assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 2


def test_encoder_weights_are_not_fetched_for_a_checkpoint(
    dsb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = smp_arguments(dsb_root, tmp_path, "--model.net.encoder_weights=null")
    assert main(argv) == 0
    (run,) = tmp_path.glob("*/*")
    path = run / "checkpoints/best.ckpt"
    checkpoint = read_checkpoint(path)
    checkpoint["segmentation"]["config"]["init_args"]["net"]["init_args"]["encoder_weights"] = (
        "imagenet"
    )
    torch.save(checkpoint, tmp_path / "pretrained.ckpt")

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", no_network)
    load_task(tmp_path / "pretrained.ckpt")
    assert (
        main(
            [
                "test",
                f"--config={run / 'config.yaml'}",
                f"--run.root={tmp_path / 't'}",
                f"--ckpt_path={tmp_path / 'pretrained.ckpt'}",
            ]
        )
        == 0
    )


BAD = [
    (["--model.net=segmentation.models.Nope"], ["--model.net", "segmentation.models.Nope"]),
    (["--model.net=Nope"], ["--model.net Nope: no class is called Nope; write it as module.Class"]),
    (["--data.split=Random"], ["no class is called Random; write it as module.Class"]),
    (["--model.net.widht=8"], ["--model.net.widht", "not accepted"]),
    (["--model.net.width=abc"], ["--model.net.width", "int", "abc"]),
    (["--model.net.depth=0"], ["depth must be at least 1, got 0"]),
    (["--model.net.classes=2"], ["gives 2 class(es)", "needs 1", "net.classes"]),
    (["--model.preprocess.channels=1"], ["takes 3 channel(s)", "makes 1", "net.in_channels"]),
    (["--data.augmentation=heavy"], ["'heavy'", "choose from", "light"]),
    (["--data.crop=2000"], ["2000×2000", "64×80", "lower it"]),
    (["--data.root=/nope"], ["/nope", "does not exist", "stage1_train.zip"]),
    (["--data.split.test=16"], ["test=16", "16"]),
    (["--data.foo=1"], ["--data.foo"]),
    (["--trainer.foo=1"], ["--trainer.foo"]),
    (["--trainer.precision=17"], ["--trainer.precision 17", "16-mixed"]),
    (["--config=nope.yaml"], ["nope.yaml", "cannot be read"]),
    (["--ckpt_path=/nope.ckpt"], ["/nope.ckpt", "no such checkpoint"]),
    (["--run.weights=/nope.ckpt"], ["/nope.ckpt", "no such checkpoint"]),
    (["--run.root=/dev/null"], ["/dev/null", "--run.root"]),
]


@pytest.mark.parametrize(("typed", "said"), BAD, ids=[" ".join(typed) for typed, _ in BAD])
def test_bad_input_gets_one_clear_line(
    typed: list[str],
    said: list[str],
    dsb_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, *typed))
    assert all(word in line for word in said), line
    assert len(line) < 600
    assert not list(tmp_path.iterdir())  # no folder of a run that never was


def test_an_unknown_encoder_is_named(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        a
        for a in arguments(
            "fit",
            dsb_root,
            tmp_path,
            "--model.net=segmentation_models_pytorch.Unet",
            "--model.net.encoder_name=resnetzz",
            "--model.net.encoder_weights=null",
        )
        if not a.startswith(("--model.net.width", "--model.net.depth"))
    ]
    line = refusal(capsys, argv)
    assert "resnetzz" in line and "resnet18" in line


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(
        "fit",
        dsb_root,
        tmp_path,
        "--model.optimizer.lr=1e30",
        "--data.length=32",
        "--trainer.gradient_clip_val=null",
    )
    line = refusal(capsys, argv)
    assert (
        "training loss became nan" in line
        and "epoch 0, batch" in line
        and "model.optimizer.lr" in line
    )


def test_test_without_a_checkpoint_is_refused(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--ckpt_path" in refusal(capsys, arguments("test", dsb_root, tmp_path))


def test_compose(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("trainer: {max_epochs: 3}\n")
    (tmp_path / "whole.yaml").write_text("compose: [part.yaml]\nrun: {name: x}\n")
    words = composed(["fit", "--a.b=1", "--config", str(tmp_path / "whole.yaml"), "--c", "2"])
    assert words[0] == "fit" and words[-3:] == ["--a.b=1", "--c", "2"]
    assert [yaml.safe_load(w) for w in (words[2], words[4])] == [
        {"trainer": {"max_epochs": 3}},
        {"run": {"name": "x"}},
    ]
    (tmp_path / "part.yaml").write_text("compose: [whole.yaml]")
    with pytest.raises(UserError, match="composes itself"):
        composed(["fit", "--config", str(tmp_path / "whole.yaml")])
    (tmp_path / "part.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        composed(["fit", "--config", str(tmp_path / "whole.yaml")])
    (tmp_path / "part.yaml").write_text("just text")
    with pytest.raises(UserError, match="a mapping"):
        composed(["fit", "--config", str(tmp_path / "whole.yaml")])


def test_plateau_schedules_step_within_the_epoch(dsb_root: Path, tmp_path: Path) -> None:
    """System E's schedule: ReduceLROnPlateau at every validation, several an epoch."""
    plateau = [
        "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "--model.lr_scheduler.patience=0",
        "--model.lr_scheduler.factor=0.5",
        "--model.lr_scheduler.threshold=10",
        "--model.schedule.interval=step",
        "--model.schedule.frequency=2",
        "--trainer.val_check_interval=2",
        "--data.length=24",
    ]
    run = fit(dsb_root, tmp_path / "runs", *plateau)
    rows = (run / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("lr-AdamW")
    rates = [float(r.split(",")[column]) for r in rows[1:] if r.split(",")[column]]
    assert rates[0] == 5e-3 and rates[-1] < rates[0]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_without_a_validation_the_last_weights_are_tested(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(dsb_root, tmp_path, "--trainer.limit_val_batches=0")
    assert "the last weights are tested" in capsys.readouterr().out
    assert scores(run)["images"] == 3


def test_tiles_of_training_and_of_evaluation_must_be_the_same(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiles.yaml"
    net = "{class_path: segmentation.models.SmallUNet, init_args: {in_channels: 3, classes: 1}}"
    tiles = f"segmentation.experiments.grid_tiles.GridTiles, init_args: {{division: 2, net: {net}}}"
    check = "trainer: {callbacks: [{class_path: segmentation.experiments.grid_tiles.SameTiles}]}\n"
    config.write_text(f"{check}model: {{init_args: {{net: {{class_path: {tiles}}}}}}}\n")
    argv = arguments("fit", dsb_root, tmp_path, f"--config={config}", "--data.crop=null")
    argv = [a for a in argv if not a.startswith(("--model.net.width", "--model.net.depth"))]
    argv = [*argv, "--data.zoom=[1,1]"]
    assert "data.division is 1 but model.net.division is 2" in refusal(capsys, argv)
    assert main([*argv, "--data.division=2"]) == 0


def test_a_loss_that_does_not_fit_the_target(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contour = ["--model.target=segmentation.targets.Contour", "--model.net.classes=3"]
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, *contour))
    assert "model.loss: BCEDice does not fit model.target Contour" in line


def test_early_stopping_without_a_validation(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"
    never = ["--trainer.limit_val_batches=0", "--trainer.callbacks.monitor=val/loss"]
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, stop, *never))
    assert "val/loss" in line and "nothing was validated" in line
