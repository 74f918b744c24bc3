"""Checkpoints to give away: with nothing but what prediction and tests need."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmentation.card.record import check_license, kept, without_folders
from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError
from segmentation.io import sealed
from segmentation.io.files import writing

_KEPT = ("segmentation", "state_dict", "epoch", "global_step", "pytorch-lightning_version")


def give_away(
    ckpt_path: Path,
    output: Path,
    half: bool = False,
    license: str | None = None,
    trust: list[str] | None = None,
) -> None:
    """Write a checkpoint to give away: without what training needs, smaller.

    What segmentation tune found for it becomes part of it, and what its run's folder says of it.
    Options are those of the command ``export``.
    """
    if output.exists():
        raise UserError(f"{output}: exists already; choose another --output")
    checkpoint = read_checkpoint(ckpt_path, trust=trust or ())
    check_license(license)
    record, about = kept(ckpt_path, checkpoint), checkpoint["segmentation"]
    about["record"] = record | ({"license": license} if license else {})
    if about.get("config") is not None:
        about["config"] = without_folders(about["config"], unset=True)  # it is given away
    save_for_inference(checkpoint, output, half)
    before, after = (path.stat().st_size / 1e6 for path in (ckpt_path, output))
    print(f"{output}: {after:.1f} MB of {before:.1f} MB")


def save_for_inference(checkpoint: dict[str, Any], output: Path, half: bool = False) -> None:
    """Write a checkpoint that ``predict`` and ``test`` take as any other, without what trains on.

    With ``half``, numbers are stored in float16 and computed with in float32 as before; a tensor
    that float16 cannot hold stays as it is.
    """
    kept = {name: checkpoint[name] for name in _KEPT if name in checkpoint}
    kept["segmentation"] = {**kept["segmentation"], "exported": True}
    if half:
        kept["state_dict"] = {name: _half(value) for name, value in kept["state_dict"].items()}
    with writing(output) as file:
        sealed.dump(kept, file)


def _half(value: Tensor) -> Tensor:
    small = value.half() if value.is_floating_point() else value
    return small if torch.isfinite(small).all() else value
