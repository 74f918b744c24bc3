"""Maps of pixels: masks, label maps, probabilities and overlays, with the scale of their image."""

from pathlib import Path

import numpy as np

from segmentation.io.files import write_bytes
from segmentation.io.images import write_image
from segmentation.io.stacks import Planes, write_stack

_LOSSLESS = (".png", ".tif", ".tiff", ".bmp")


def mask_suffix(planes: Planes) -> str:
    """The image's own where it is lossless, for masks beside it; TIFF for a stack."""
    suffix = planes.path.suffix
    if len(planes) > 1 or planes.axes:
        return suffix if suffix.lower() in (".tif", ".tiff") else ".tif"
    return suffix if suffix.lower() in _LOSSLESS else ".png"


def write_pixels(path: Path, pixels: np.ndarray, planes: Planes) -> None:
    """Write (planes, H, W) or (planes, H, W, 3) unsigned integers of the planes' file.

    TIFF holds all planes and the scale of the image; the other formats the first plane alone.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        write_bytes(path, write_stack(pixels, planes))
    else:
        write_image(path, pixels[0])


def smallest_ids(labels: list[np.ndarray]) -> np.ndarray:
    """Label maps of all planes as one array (planes, H, W), uint16 where that holds every id."""
    largest = max(int(plane.max(initial=0)) for plane in labels)
    return np.stack(labels).astype(np.uint16 if largest <= 65535 else np.uint32)
