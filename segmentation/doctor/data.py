"""W&B's login and the data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from segmentation.data.sample import Source
from segmentation.datasets.bbbc039 import BBBC039
from segmentation.datasets.dic_hela import DICHeLa
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.folder import FolderDataset
from segmentation.datasets.ultrasound_nerve import UltrasoundNerve
from segmentation.doctor.finding import Finding
from segmentation.errors import UserError
from segmentation.training.loggers import has_account

PREPARE = "segmentation prepare dsb2018 --root data/dsb2018, or --data.root DIR"


def check_wandb(environ: Mapping[str, str]) -> Finding:
    """Where runs are tracked; without an account they are kept and can be sent later."""
    if (mode := environ.get("WANDB_MODE", "online")) != "online":
        return Finding("ok", "wandb", f"WANDB_MODE is {mode}")
    if has_account():
        return Finding("ok", "wandb", "logged in: runs go online")
    return Finding("ok", "wandb", "no login: runs are offline, for `wandb login` and `wandb sync`")


def check_data(root: Path | None) -> list[Finding]:
    """The datasets at ``root`` (``data``) or in its folders, as their readers see them."""
    folder = root or Path("data")
    if not folder.is_dir():
        return [Finding("error" if root else "warning", "data", f"{folder}: no folder", PREPARE)]
    if (found := _read_data(folder)).status == "ok":
        return [found]
    inside = [_read_data(f) for f in sorted(folder.iterdir()) if f.is_dir()]
    if root is not None and not any(f.status == "ok" for f in inside):
        return [replace(found, status="error")]
    return inside or [Finding("warning", "data", f"{folder}: is empty", PREPARE)]


def _read_data(folder: Path) -> Finding:
    """The dataset in a folder: of the reader that it is named after, or the first that fits."""
    readers: dict[str, Callable[[str], Source]] = {
        "dsb2018": DSB2018,
        "bbbc039": BBBC039,
        "dic_hela": DICHeLa,
        "ultrasound_nerve": UltrasoundNerve,
        "folder": FolderDataset,
        "folder, mask_type objects": lambda root: FolderDataset(root, mask_type="objects"),
    }
    own = readers.get(folder.name)
    errors = []
    for name, reader in {folder.name: own}.items() if own else readers.items():
        try:
            records = reader(str(folder)).index()
        except UserError as error:
            errors.append(str(error))
            continue
        masks = sum(bool(record.masks) for record in records)
        text = f"{folder}: {name}, {len(records)} images, {masks} with masks"
        return Finding("ok", "data", text)
    if own:
        return Finding("error", "data", errors[0], f"segmentation prepare {folder.name}")
    remedy = "README.md says how a dataset is laid out; images and masks in two folders are one"
    return Finding("warning", "data", f"{folder}: no reader finds a dataset in it", remedy)
