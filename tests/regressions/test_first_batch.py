"""What cannot work is told before the first epoch is over, as one line with its key."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from segmentation.data.preprocess import Preprocess
from segmentation.predictor import Predictor
from segmentation.targets import Foreground
from tests.regressions.conftest import Result, write_pairs

SMP = "segmentation_models_pytorch"
CALLBACK = "--trainer.callbacks+=lightning.pytorch.callbacks"
ONE = ("--data.batch_size=1", "--data.crop=16", "--model.net.depth=5")
PLATEAU = "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"
LOSSES = f"--model.loss={SMP}.losses"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--checkpoint.monitor=val_iou"],
         "checkpoint.monitor: val_iou is not logged; did you mean val/iou?"),
        ([f"{CALLBACK}.EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
         "EarlyStopping.monitor: val_loss is not logged; did you mean val/loss?"),
        ([f"{CALLBACK}.ModelCheckpoint", "--trainer.callbacks.monitor=dice"],
         "ModelCheckpoint.monitor: dice is not logged; did you mean val/f1?"),
        ([PLATEAU, "--model.schedule.monitor=speed"],
         "model.schedule.monitor: speed is not logged; logged are val/loss, val/iou,"),
        (ONE, "model.net: UNet fails on images of shape 1×3×16×16 (Expected more than 1 value"),
        (ONE, "normalises over a single value: raise data.batch_size or data.crop"),
        (["--model.loss=torch.nn.CrossEntropyLoss"], "CrossEntropyLoss does not fit model.target "
         "Foreground (it is the same whatever the network answers)"),
        (["--model.loss=torch.nn.BCEWithLogitsLoss", "--model.loss.reduction=none"],
         "(it gives (1, 1, 8, 8) values, not one)"),
        ([f"{LOSSES}.DiceLoss", "--model.loss.mode=multiclass"], "DiceLoss does not fit"),
        (["--model.loss=torch.nn.BCELoss"], "BCELoss does not fit"),
        (["--model.net=segmentation.models.UNetPlusPlus"],
         "the network gives several answers: take segmentation.losses.DeepSupervision"),
        (["--model.optimizer=torch.optim.SparseAdam"],
         "model.optimizer: SparseAdam fails (SparseAdam does not support dense gradients"),
        (["--trainer.logger=lightning.pytorch.loggers.MLFlowLogger"], "trainer.logger: MLFlow"),
        (["--trainer.val_check_interval=9"], "trainer: `val_check_interval` (9) must be less"),
    ],
)  # fmt: skip
def test_one_line_before_the_first_epoch_ends(
    typed: list[str], said: str, pairs: Path, fit: Callable[..., Result]
) -> None:
    result = fit(pairs, *typed)
    assert result.status == 2 and said in result.line and "error" in result.line


@pytest.mark.parametrize(
    "typed",
    [
        [PLATEAU, "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=2"],
        ["--trainer.precision=bf16-true"],
        ["--model.loss=torch.nn.BCEWithLogitsLoss"],
        [f"{LOSSES}.LovaszLoss", "--model.loss.mode=binary"],
    ],
)
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on")
def test_what_can_work_does(typed: list[str], pairs: Path, fit: Callable[..., Result]) -> None:
    result = fit(pairs, *typed)
    assert result.status == 0 and result.line.startswith("weights")


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("Unet", "resnet18"), ("MAnet", "resnet18"), ("PAN", "resnet18"),
     ("Segformer", "resnet18"), ("PSPNet", "efficientnet-b0")],
)  # fmt: skip
def test_images_of_any_size_are_padded_as_the_network_needs_it(
    architecture: str, encoder: str
) -> None:
    torch.manual_seed(0)
    made = {"encoder_name": encoder, "encoder_weights": None, "in_channels": 1, "classes": 1}
    model = Predictor(getattr(smp, architecture)(**made), Preprocess(channels=1), Foreground())
    for size in ((70, 83), (33, 200), (5, 7)):
        assert model.predict(np.zeros(size, np.uint8)).shape == size
