"""The microscopes' own files (CZI, ND2, LIF), read by bioio, which is an extra."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.errors import UserError
from segmentation.io.images import sixteen_bits
from segmentation.io.metadata import Calibration, clean_names, micrometres
from segmentation.io.stacks import Planes
from segmentation.io.tiff import MOST_PIXELS, decoding


@dataclass(frozen=True)
class MicroscopePlanes(Planes):
    """The planes of a microscope's file; they are read as wholes, one at a time."""

    order: str = ""  # of a plane's axes as bioio gives it: YXS for colours, else CYX

    def plane(self, number: int) -> np.ndarray:
        """Read one plane."""
        with decoding(self.path, self.path.suffix[1:].upper()):
            pixels = _bioimage(self.path).get_image_data(self.order, **self.position(number))
            pixels = pixels if self.order.endswith("S") else np.moveaxis(pixels, 0, 2)
            return sixteen_bits(np.ascontiguousarray(pixels), self.channels, self.path)


def open_microscope(path: Path) -> MicroscopePlanes:
    """Look at a file that bioio reads, without reading its pixels."""
    if find_spec("bioio") is None:
        remedy = "pip install 'biomedical-segmentation[bioio]', or save it as TIFF"
        raise UserError(f"{path}: is read by bioio; {remedy}")
    with decoding(path, path.suffix[1:].upper()):
        image = _bioimage(path)
        if len(image.scenes) > 1:
            raise UserError(
                f"{path}: holds {len(image.scenes)} scenes ({', '.join(image.scenes[:3])} …); "
                "export each as its own file"
            )
        dims = {axis: int(getattr(image.dims, axis)) for axis in image.dims.order}
        if dims["Y"] * dims["X"] > MOST_PIXELS:
            raise UserError(f"{path}: {dims['Y']}×{dims['X']} pixels are too many; export tiles")
        leading = [(a, n) for a, n in dims.items() if a not in "CYXS" and n > 1]
        if dims.get("S", 1) > 1 and dims.get("C", 1) > 1:
            raise UserError(f"{path}: holds {dims['C']} images in colour; export each by itself")
        colours = dims.get("S", 1) > 1
        count = dims.get("S" if colours else "C", 1)
        sizes = image.physical_pixel_sizes
        size = micrometres([sizes.Y or 0, sizes.X or 0], ["µm", "µm"])
        about = {} if size is None else {"PhysicalSizeY": size[0], "PhysicalSizeX": size[1]}
        names = () if colours else clean_names(image.channel_names or (), count)
        axes, lengths = "".join(axis for axis, _ in leading), tuple(length for _, length in leading)
        scale, order = Calibration("ome", size, about), "YXS" if colours else "CYX"
        # Without a size, as they are never read in windows.
        return MicroscopePlanes(path, axes, lengths, None, names, scale, order)


def _bioimage(path: Path) -> Any:
    from bioio import BioImage  # takes seconds

    return BioImage(path)
