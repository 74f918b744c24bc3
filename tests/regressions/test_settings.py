"""Each setting that is wrong names its key and value, and what would be right."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segmentation.__main__ import main
from segmentation.config_files import configs_folder, read_yaml
from segmentation.errors import UserError
from segmentation.experiments.sweep.file import read_sweep
from segmentation.keys import answer
from tests.regressions.conftest import Result, write_pairs

SWEEP = """
method: random
run_cap: 2
metric: {name: METRIC, goal: maximize}
command: ["${env}", "${interpreter}", -m, segmentation, fit, --config, folder, "${args}"]
parameters: {PARAMETERS}
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), number=4)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--data.cache=x", "data.files.cache"),
        ("--model.lr=1", "model.optimizer.lr"),
        ("--lr=1", "model.optimizer.lr"),
        ("--trainer.max_epoch=3", "trainer.max_epochs"),
        ("--epochs=3", "trainer.max_epochs"),
        ("--batch-size=4", "data.batch_size"),
        ("--model.net.widht=4", "model.net.width"),
        ("--model.preprocess.gama=1", "model.preprocess.gamma"),
        ("--data.split.vall=1", "data.split.val"),
        ("--run.nam=x", "run.name"),
        ("--model.tat=true", "model.tta"),
        ("--checkpoint.monitr=x", "checkpoint.monitor"),
    ],
)
def test_a_mistyped_key_gets_the_nearest(
    typed: str, meant: str, run: Callable[..., Result]
) -> None:
    key = typed.partition("=")[0].replace("batch-", "batch_")
    result = run("fit", "--config=folder", typed)
    assert result.status == 2
    assert f"{key}: no such key; did you mean {meant}? See segmentation fit" in result.line


def test_the_same_in_a_file(tmp_path: Path, run: Callable[..., Result]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "compose: [folder.yaml]\ndata: {init_args: {split: {init_args: {tset: 1}}}}\n"
    )
    result = run("fit", f"--config={config}")
    said = "mine.yaml: data.split.tset: no such key; did you mean data.split.test?"
    assert result.status == 2 and said in result.line


def test_commands_that_hand_keys_on_check_them_too(run: Callable[..., Result]) -> None:
    for words in (["crossvalidate", "--config=folder"], ["tune", "--ckpt_path=x"], ["test"]):
        result = run(*words, "--data.batch_siz=1")
        said = "--data.batch_siz: no such key; did you mean data.batch_size?"
        assert result.status == 2 and said in result.line


def test_keys_that_there_are_pass() -> None:
    """Of every shipped config, and of classes from elsewhere."""
    folder = configs_folder()
    for path in folder.rglob("*.yaml"):
        if path.relative_to(folder).parts[0] not in ("cluster", "corrections", "sweeps"):
            assert answer("fit", ["--config", str(path)]) is None
    smp = ["--model.net=segmentation_models_pytorch.Unet", "--model.net.encoder_name=resnet18"]
    torch = ["--model.loss=torch.nn.BCEWithLogitsLoss", "--model.loss.reduction=sum"]
    more = ["--trainer.callbacks+=x.Y", "--trainer.callbacks.z=1", "--model.loss.class_path=x.Z"]
    other = ["--model.net.width=4", "--model.net=torch.nn.Conv2d", "--model.net.kernel_size=1"]
    for words in (smp, torch, more, other, ["--model.net=mine.Net", "--model.net.any=1"]):
        assert answer("fit", ["--config=folder", *words]) is None


def test_a_mistyped_key_is_told_in_a_moment() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "segmentation", "fit", "--data.cache=x"]
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and time.monotonic() - start < 5  # a tenth of it, undisturbed
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "lightning", "numpy"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--data.crop=abc", "--data.crop abc: must be a whole number or a list"),
        ("--data.split.val=abc", "--data.split.val abc: must be a number"),
        ("--trainer.max_epochs=ten", "--trainer.max_epochs ten: must be a whole number"),
        ("--trainer.max_epochs=", "--trainer.max_epochs: needs a value"),
        ("--trainer.precision=12", "--trainer.precision 12: must be one of 64, 32, 16 or"),
        ("--trainer=[]", "--trainer []: must be a mapping of its keys"),
        ("--model=3", "--model 3: no class is called 3; write it as module.Class"),
        ("--model.loss=null", "model.loss: is missing"),
        ("--model.preprocess=null", "model.preprocess: must not be null"),
        ("--model.optimizer=os.system", "--model.optimizer os.system: must be a class of the kind"),
        ("--model.optimizer.lr=abc", "--model.optimizer.lr abc: must be a number"),
        ("--model.optimizer.lr=-1", "model.optimizer: Invalid learning rate: -1.0"),
        ("--model.optimizer.lr=.nan", "model.optimizer: Invalid learning rate: nan"),
        ("--model.optimizer.weight_decay=-1", "model.optimizer: Invalid weight_decay value: -1.0"),
        ("--model.net.width=0", "model.net: UNet: width must be at least 1, got 0"),
        ("--trainer.devices=9999", "trainer.devices: 9999 processes on"),
        ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches: 0 must be at least 1"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: -1 must be at least 0"),
        ("--trainer.val_check_interval=0", "trainer.val_check_interval: 0 must be above 0"),
        ("--seed_everything=-1", "seed_everything: -1 must be from 0 to 4294967295"),
        ("--seed_everything=4294967296", "seed_everything: 4294967296 must be from 0 to"),
        ("--trainer.devices=0", "trainer.devices: `Trainer(devices='0')` value is not a valid"),
        ("--trainer.max_epochs=-5", "trainer.max_epochs: `max_epochs` must be a non-negative"),
        ("--trainer.strategy=nope", "trainer.strategy: You selected an invalid strategy"),
        ("--data.num_workers=-1", "data.num_workers: -1 must be at least 0"),
        ("--checkpoint.mode=up", "checkpoint: RunCheckpoint: `mode` can be min, max but got up"),
        ("mine.yaml", "mine.yaml: is no option; give a config as --config mine.yaml"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    typed: str, said: str, pairs: Path, fit: Callable[..., Result]
) -> None:
    result = fit(pairs, typed)
    assert result.status == 2 and said in result.line
    assert result.line.startswith("segmentation: error: ")


def test_values_of_a_file_are_named_too(
    tmp_path: Path, pairs: Path, fit: Callable[..., Result]
) -> None:
    config = tmp_path / "mine.yaml"
    for text, said in (
        ("data: {init_args: {zoom: abc}}", "--data.zoom abc: must be a list"),
        ("model: {optimizer: {lr: nan}}", "error: --model.optimizer.lr nan: must be a number"),
        ("model: {net: {init_args: {width: x}}}", "error: --model.net.width x: must be a whole"),
        ("data: {init_args: {crop: 64, crop: 32}}", "crop is there twice line 1"),
        ("compose: null", "mine.yaml: compose: None must be a list of files"),
        ("[1, 2]", "mine.yaml: must be a mapping of keys, this is list"),
        ("trainer: 3", "mine.yaml: trainer: 3 must be a mapping of its keys"),
    ):
        config.write_text(text)
        result = fit(pairs, f"--config={config}")
        assert result.status == 2 and said in result.line


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: 1e-4\nb: off\nc: [-2E3, '1e-4', 1.5e+1]\nd: yes\ne: {<<: {f: 1}, f: 2}\n")
    found = read_yaml(path)
    assert found == {"a": 1e-4, "b": "off", "c": [-2000.0, "1e-4", 15.0], "d": True, "e": {"f": 2}}


@pytest.mark.parametrize(
    ("parameters", "metric", "said"),
    [
        ("{model.optimizer.lr: {min: 1e-4, max: 1e-2}, run.wandb: {values: [off, auto]}}",
         "val/image_iou", "2 runs"),
        ("{model.net.widht: {values: [4]}}", "val/iou", "widht: no such key; did you mean model."),
        ("{data.crop: {values: [64]}}", "val_iou", "metric.name: val_iou is not logged; did you "),
        ("{model: {parameters: {net: {value: 1}}}}", "val/iou", "write flat dotted names such as"),
    ],
)  # fmt: skip
def test_sweep_files(
    parameters: str, metric: str, said: str, tmp_path: Path, run: Callable[..., Result]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("{PARAMETERS}", parameters).replace("METRIC", metric))
    result = run("sweep", "count", path)
    assert said in result.text and result.status == (0 if said == "2 runs" else 2)
    if result.status == 0:
        lr, wandb = read_sweep(path).parameters
        assert lr.distribution == "uniform" and lr.min == 1e-4
        assert wandb.values == ["off", "auto"]


def test_all_keys_are_listed_with_what_they_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help-all"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "  --trainer.max_epochs  (Optional[int], default None)",
        "  --run.save_every  (float, default 10.0)",
        "  --data.batch_size  (int, default 8)\n      Per device, in training.",
        "  --checkpoint.save_top_k  (int, default 1)",
        "with --data segmentation.datasets.folder.FolderDataModule: Your own images and masks.",
        "  --data.mask_type  (Masks, default 'binary')",
        "with --model.net segmentation.models.UNet: ",
        "  --model.net.width  (int, default",
        "  --model.lr_scheduler.warmup  (float, default 0.1)\n      Share of all steps.",
    ):
        assert line in shown
    assert "--data.target" not in shown  # the task's


def test_a_key_is_explained() -> None:
    losses = answer("fit", ["--explain", "model.loss"]) or ""
    assert "segmentation.losses.BCEDice\n      Mean binary cross-entropy" in losses
    assert "torch.nn" in losses
    split = answer("fit", ["--explain=data.split", "--config=folder"]) or ""
    assert "(Splitter | None, default None)" in split and "GroupSplit\n" in split
    assert "Keys below it: data.split.val, data.split.test, data.split.seed" in split
    with pytest.raises(UserError, match=r"bach_size: no such key; did you mean data\.batch_size"):
        answer("fit", ["--explain", "bach_size"])
