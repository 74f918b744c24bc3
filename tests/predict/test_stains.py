"""Every image is shown as bright objects on dark, in one piece or in windows, and that is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segmentation.__main__ import main
from segmentation.checkpoints import read_checkpoint
from segmentation.data.preprocess import Preprocess
from segmentation.io.images import write_image
from segmentation.predict import outputs
from segmentation.predict.large import ArrayWindows, window_reader
from tests.data.test_stains import KINDS
from tests.predict.predicting import altered, argv, rows


def shows(config: dict[str, Any]) -> None:
    config["preprocess"] = {"channels": "bright_on_dark"}
    about = {"in_channels": 1, "classes": 1, "width": 4, "depth": 2}
    config["net"] = {"class_path": "segmentation.models.UNet", "init_args": about}


def test_what_was_decided_is_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckpt, images = altered(checkpoint, tmp_path / "shows.ckpt", shows), tmp_path / "images"
    for kind, (image, _) in KINDS.items():
        images.mkdir(exist_ok=True)
        tifffile.imwrite(images / f"{kind}.tif", image.squeeze(), compression="zlib")
    assert main(argv(ckpt, images, tmp_path / "whole")) == 0
    monkeypatch.setattr(outputs, "STREAMED", 1000)
    assert main(argv(ckpt, images, tmp_path / "out")) == 0
    one, other = (rows(tmp_path / name / "images.csv") for name in ("whole", "out"))
    assert {row["image"].removesuffix(".tif"): row["shown"] for row in one} == {
        kind: says for kind, (_, says) in KINDS.items()
    }
    assert one == other
    for kind in KINDS:
        masks = (tifffile.imread(tmp_path / n / f"masks/{kind}.tif") for n in ("whole", "out"))
        np.testing.assert_array_equal(*masks)
    plain = argv(checkpoint, images, tmp_path / "plain")
    assert main(plain) == 0 and "shown" not in rows(tmp_path / "plain/images.csv")[0]


@pytest.mark.parametrize("channels", ["gray", "bright_on_dark"])
@pytest.mark.parametrize("kind", ["coloured fluorescence", "hematoxylin and eosin"])
def test_windows_show_what_the_whole_does(channels: Any, kind: str) -> None:
    image, how = KINDS[kind][0], Preprocess(channels)
    window = window_reader(how, ArrayWindows(image))(slice(20, 90), slice(5, 70))
    whole = how.prepare(image)[20:90, 5:70].transpose(2, 0, 1)
    np.testing.assert_array_equal(window.numpy(), whole)


def test_the_checkpoint_knows_what_was_decided(tmp_path: Path) -> None:
    for number in range(6):
        image, _ = KINDS["fluorescence" if number % 2 else "bright field"]
        write_image(tmp_path / f"data/images/{number}.png", np.roll(image[..., 0], number, 1))
        mask = (image[..., 0] > 100) == bool(number % 2)
        write_image(tmp_path / f"data/masks/{number}.png", np.roll(mask * np.uint8(255), number, 1))
    options = [
        *("--config", "folder", f"--data.root={tmp_path / 'data'}", "--data.crop=32"),
        *("--data.split=segmentation.data.splits.RandomSplit", "--data.split.val=1"),
        *("--data.split.test=1", "--data.num_workers=0", "--data.batch_size=2"),
        *("--model.preprocess.channels=bright_on_dark", "--model.net=segmentation.models.UNet"),
        *("--model.net.in_channels=1", "--model.net.width=4", "--model.net.depth=2"),
        *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--run.wandb=off"),
        *(f"--run.root={tmp_path / 'runs'}", "--run.name=a", "--run.tune=false"),
    ]
    assert main(["fit", *options]) == 0
    (best,) = (tmp_path / "runs/a").glob("*/checkpoints/best.ckpt")
    shown = read_checkpoint(best)["segmentation"]["shown"]
    assert set(shown) <= {"as it is", "inverted"} and sum(shown.values()) == 4
