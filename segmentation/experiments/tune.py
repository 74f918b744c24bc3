"""Settings of the decoding, chosen on the validation images and kept beside the checkpoint."""

from pathlib import Path

from segmentation.errors import UserError
from segmentation.networks import FOLDER
from segmentation.training.cli import run
from segmentation.training.tuning import Tune, check_score


def tune(*options: str, ckpt_path: Path, score: str | None = None) -> None:
    """Choose threshold, seeds and sizes of the decoding on the validation images.

    All other options (--config, --data.…, --trainer.…) are those of validate. The settings are kept
    beside the checkpoint, in NAME.tuned.json; test and predict follow them.

    Args:
        ckpt_path: Written by fit.
        score: What is to be highest: image_ap (Kaggle's), ap50, pq, aji, seg, image_iou, class_pq…
            By default the score of objects in checkpoint.monitor, else (and for SEG) image_ap.
    """
    if ckpt_path.parent == FOLDER:
        given = f"--ckpt_path {ckpt_path.stem}"
        raise UserError(
            f"{given}: comes with the package, and is not changed; write a copy with segmentation "
            f"export {given} --output my.ckpt, and tune that"
        )
    check_score("--score", score or "")
    command = ["validate", "--ckpt_path", str(ckpt_path), *options]
    run(command, [Tune(score)], tuned=False)
