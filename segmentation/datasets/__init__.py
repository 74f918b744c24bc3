"""Public data sets and your own images, each indexable: ``DSB2018("data/dsb2018")[0]``."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmentation.datasets.bbbc039 import BBBC039 as BBBC039
    from segmentation.datasets.dic_hela import DICHeLa as DICHeLa
    from segmentation.datasets.dsb2018 import DSB2018 as DSB2018
    from segmentation.datasets.dsb2018_stardist import DSB2018StarDist as DSB2018StarDist
    from segmentation.datasets.folder import FolderDataset as FolderDataset
    from segmentation.datasets.ultrasound_nerve import UltrasoundNerve as UltrasoundNerve

_MODULES = {
    "BBBC039": "bbbc039",
    "DICHeLa": "dic_hela",
    "DSB2018": "dsb2018",
    "DSB2018StarDist": "dsb2018_stardist",
    "FolderDataset": "folder",
    "UltrasoundNerve": "ultrasound_nerve",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> type:
    # On demand: a data set imports torch and Lightning, which writing synthetic images does not.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    found: type = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
