"""What the official distribution of each dataset consists of, and where it is.

Imports nothing heavy: the command line lists the datasets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from segmentation.data.sample import Source


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a distribution.

    Attributes:
        file: Its name.
        sha256: Of the official file; "" where nobody has published it.
        needed: The dataset cannot be read without it.
        inside: Another archive that may hold the same folder.
    """

    file: str
    sha256: str = ""
    needed: bool = True
    inside: str = ""

    @property
    def target(self) -> str:
        """What it becomes in the root: a folder of the archive's name, or itself."""
        return self.file.removesuffix(".zip")


@dataclass(frozen=True, slots=True)
class Official:
    """A dataset as its authors distribute it.

    Attributes:
        source: Dotted name of the class that reads it; takes the root.
        pieces: Files; the needed ones come last, so that what is there is whole.
        url: Of the folder that holds them; "" where a login is needed.
        login: What to do then.
        images: Official number of images by subset.
        objects: Official number of objects by subset.
        config: To train with.
    """

    source: str
    pieces: tuple[Piece, ...]
    config: str
    images: Mapping[str, int]
    url: str = ""
    login: str = ""
    objects: Mapping[str, int] = field(default_factory=dict)

    def open(self, root: Path) -> "Source":
        """Its reader."""
        module, _, name = self.source.rpartition(".")
        return cast("Source", getattr(import_module(module), name)(str(root)))


_BBBC = "https://data.broadinstitute.org/bbbc"
_READERS = "segmentation.datasets"


def _ctc(name: str, frames: int, sha256: str = "") -> Official:
    """A training set of the Cell Tracking Challenge."""
    return Official(
        f"{_READERS}.dic_hela.DICHeLa",
        (Piece(f"{name}.zip", sha256),),
        "configs/dic_hela/unet.yaml",
        {"": frames},
        "https://data.celltrackingchallenge.net/training-datasets",
    )


DATASETS = {
    "dsb2018": Official(
        f"{_READERS}.dsb2018.DSB2018",
        (
            Piece("stage1_solution.csv", needed=False),
            Piece("stage1_test.zip", needed=False),
            Piece("stage1_train.zip"),
        ),
        "configs/dsb2018/unet_small.yaml",
        {"train": 670, "test": 65},
        f"{_BBBC}/BBBC038",
        objects={"train": 29_461},
    ),
    "bbbc039": Official(
        f"{_READERS}.bbbc039.BBBC039",
        (
            Piece(
                "metadata.zip", "a2c1f900bed9ba92a99553efd4c2ae98598433691c7401d818653ab61110deb2"
            ),
            Piece("masks.zip", "f9e6043d8ca56344a4886f96a700d804d6ee982f31e2b2cd3194af2a053c2710"),
            Piece("images.zip", "6f30a5d4fe38c928ded972704f085975f8dc0d65d9aa366df00e5a9d449fddd7"),
        ),
        "configs/bbbc039/unet.yaml",
        {"train": 100, "val": 50, "test": 50},
        f"{_BBBC}/BBBC039",
    ),
    "dic_hela": _ctc(
        "DIC-C2DH-HeLa", 168, "832fed2d05bb7488cf9c51a2994b75f8f3f53b3c3098856211f2d39023c34e1a"
    ),
    "phc_u373": _ctc("PhC-C2DH-U373", 230),
    "fluo_hela": _ctc("Fluo-N2DL-HeLa", 184),
    "ultrasound_nerve": Official(
        f"{_READERS}.ultrasound_nerve.UltrasoundNerve",
        (Piece("train.zip", inside="ultrasound-nerve-segmentation.zip"),),
        "configs/ultrasound_nerve/unet.yaml",
        {"": 5635},
        login=(
            "Kaggle gives it to those who log in and accept the rules at "
            "https://www.kaggle.com/c/ultrasound-nerve-segmentation/rules: then run `kaggle "
            "competitions download -c ultrasound-nerve-segmentation`"
        ),
    ),
}
