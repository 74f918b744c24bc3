"""The commands beside LightningCLI's: their options; the work is imported when it is wanted."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from segmentation.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def predict(arguments: Sequence[str]) -> int:
    """Masks for a folder of images, from nothing but a checkpoint."""
    parser = _Parser("segmentation predict", description=predict.__doc__, allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="written by fit or prune")
    parser.add_argument(
        "--data.images",
        required=True,
        type=Path,
        dest="images",
        metavar="DIR",
        help="folder of PNG, TIFF, JPEG or BMP images; subfolders are kept",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="gets masks/ (0 or 255, the images' own sizes and names) and objects.csv",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write probabilities/: 16-bit TIFF, 65535 = certain foreground",
    )
    parser.add_argument(
        "--labels", action="store_true", help="also write labels/: TIFF, each object its own number"
    )
    parser.add_argument(
        "--overlays",
        action="store_true",
        help="also write overlays/: the images with the objects tinted",
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over eight symmetries: better, 8 times slower"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    options = parser.parse_args(arguments)
    from segmentation.predict import Outputs, predict_folder

    outputs = Outputs(options.output, options.probabilities, options.labels, options.overlays)
    return predict_folder(options.ckpt_path, options.images, outputs, options.device, options.tta)


def prune(arguments: Sequence[str]) -> int:
    """Score every head of a deeply supervised U-Net++ on the validation set, keep the best."""
    parser = _Parser("segmentation prune", description=prune.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint of the pruned network, for predict and test",
    )
    parser.add_argument("--ckpt_path", required=True, help="the trained U-Net++")
    parser.add_argument("--level", type=int, help="keep this head instead of the best")
    parser.epilog = "All other options (--config, --data.…, --trainer.…) are those of validate."
    options, rest = parser.parse_known_args(arguments)
    from segmentation.cli import run
    from segmentation.prune import ChooseHead

    run(
        ["validate", "--ckpt_path", options.ckpt_path, *rest],
        [ChooseHead(options.output, options.level)],
    )
    return 0


def synthetic(arguments: Sequence[str]) -> int:
    """Make synthetic nuclei (fluorescence, bright field, histology) to try everything with."""
    parser = _Parser("segmentation synthetic", description=synthetic.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="must not exist yet"
    )
    parser.add_argument(
        "--layout",
        choices=("dsb2018", "folder"),
        default="dsb2018",
        help="the Data Science Bowl's folders, or images/ and masks/",
    )
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.images < 1:
        raise UserError(f"--images {options.images}: must be at least 1")
    from segmentation.data.synthetic import write_dsb2018, write_folder

    write = write_dsb2018 if options.layout == "dsb2018" else write_folder
    try:
        write(options.output, options.images, seed=options.seed)
    except OSError as error:
        raise UserError(
            f"{options.output}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    print(f"{options.images} images in {options.output}")
    return 0
