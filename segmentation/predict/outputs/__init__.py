"""What prediction writes: one module for each format, and the record of what is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Outputs:
    """What is written for each image, below ``folder``.

    Files have the name of their image. Those of images that differ in their suffix alone keep that
    suffix in the name.

    Attributes:
        folder: Gets ``masks/``, ``objects.csv``, ``images.csv`` and ``manifest.json`` in any case.
        labels: Instance ids, 16 bits or, beyond 65,535 objects, 32. ``"png"`` gives TIFF all the
            same where PNG cannot hold it: a stack, or 32 bits.
        probabilities: Foreground probability as 16-bit TIFF, 65535 = 1.
        overlays: The image with its objects tinted; PNG, or TIFF of a stack. Of what is streamed
            it is smaller where a side has more than 4096 pixels.
        geojson: Outlines for QuPath.
        rle: ``rle.csv``, run lengths as Kaggle wants them.
        rois: Outlines as zip of ImageJ's ROIs.
    """

    folder: Path
    labels: Literal["tiff", "png"] | None = None
    probabilities: bool = False
    overlays: bool = False
    geojson: bool = False
    rle: bool = False
    rois: bool = False
