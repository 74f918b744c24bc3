"""Segmenting a viewer's layer, plane by plane, so that it can be followed and stopped."""

from collections.abc import Callable, Generator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentation.errors import UserError
from segmentation.predictor import Predictor

if TYPE_CHECKING:
    import pandas

# µm in a unit of length, as pint calls it, which napari's layers use.
_LENGTHS = {"nanometer": 1e-3, "micrometer": 1.0, "micron": 1.0, "millimeter": 1e3}

Segmented = tuple[np.ndarray, "pandas.DataFrame"]


def plane_axes(
    shape: Sequence[int], rgb: bool = False, channel_axis: int | None = None
) -> tuple[int, ...]:
    """The axes of a layer's data along which its planes lie.

    ``rgb``: colours are its last axis; otherwise ``channel_axis`` is that of its channels, if it
    has one. A :class:`UserError` where it has no such axis, or no plane remains.

    >>> plane_axes((5, 40, 50, 3), rgb=True), plane_axes((2, 40, 50), channel_axis=0)
    ((0,), ())
    """
    count = len(shape)
    if channel_axis is not None and not -count <= channel_axis < count:
        raise UserError(f"channel axis {channel_axis}: the layer has {count} axes, from 0 on")
    channels = _channel_axis(count, rgb, channel_axis)
    spatial = [axis for axis in range(count) if axis != channels]
    if len(spatial) < 2 or 0 in shape:
        raise UserError(f"the layer is {'×'.join(map(str, shape))}: no plane; choose another")
    return tuple(spatial[:-2])


def pixel_size_of(scale: Sequence[float], units: Sequence[Any]) -> tuple[float, float] | None:
    """(height, width) of a layer's pixels in µm; ``None`` where its units are no lengths.

    >>> pixel_size_of((2, 300, 300), ("micrometer", "nanometer", "nanometer"))
    (0.3, 0.3)
    """
    lengths = [_LENGTHS.get(str(unit)) for unit in units[-2:]]
    if len(lengths) < 2 or None in lengths:
        return None
    height, width = (side * unit for side, unit in zip(scale[-2:], lengths, strict=True) if unit)
    return float(f"{height:.6g}"), float(f"{width:.6g}")


def segmented(
    load: Callable[[], Predictor],
    data: Any,
    rgb: bool = False,
    channel_axis: int | None = None,
    pixel_size: tuple[float, float] | None = None,
) -> Generator[int, None, Segmented]:
    """Segment all planes of a layer, one after another.

    It yields how many planes are done, after each one; whoever closes it before the end stops it.
    ``load`` gives the network; it is called first, as loading takes seconds, too.

    Args:
        data: (…, H, W), with colours (and alpha, which is left out) or channels as
            :func:`plane_axes` takes them; an array or what gives one when it is indexed, uint8 or
            uint16.
        pixel_size: (height, width) in µm, where it is known.

    Returns:
        (…, H, W) int32 ids, each of one object of one plane; and the table of the objects with
        their id as ``index``, their place along each further axis as ``axis-0`` and so on, and the
        measurements of :mod:`segmentation.measurements`.
    """
    import pandas as pd

    shape = tuple(data.shape)
    axes = plane_axes(shape, rgb, channel_axis)
    predictor = load()
    channels = _channel_axis(len(shape), rgb, channel_axis)
    labels = np.zeros([side for axis, side in enumerate(shape) if axis != channels], np.int32)
    tables: list[pd.DataFrame] = []
    last = 0
    for done, place in enumerate(product(*(range(shape[axis]) for axis in axes)), start=1):
        where: list[Any] = [slice(None)] * len(shape)
        for axis, index in zip(axes, place, strict=True):
            where[axis] = index
        plane = np.asarray(data[tuple(where)])
        if rgb:
            plane = plane[..., :3]
        elif channels is not None:  # where it is without the axes of planes before it
            plane = np.moveaxis(plane, channels - sum(axis < channels for axis in axes), -1)
        found: Any = predictor.predict(plane, measurements=True, pixel_size=pixel_size)
        table: pd.DataFrame = found.measurements
        labels[place] = np.where(found.labels, found.labels + last, 0)
        table = table.rename(columns={"object": "index"})
        table["index"] += last
        for axis, index in enumerate(place):
            table.insert(axis + 1, f"axis-{axis}", index)
        last = max(last, int(labels[place].max(initial=0)))
        tables.append(table)
        yield done
    filled = [table for table in tables if len(table)]
    return labels, pd.concat(filled or tables[:1], ignore_index=True)


def _channel_axis(count: int, rgb: bool, channel_axis: int | None) -> int | None:
    """Which of so many axes is that of channels, from 0."""
    if rgb:
        return count - 1
    return None if channel_axis is None else channel_axis % count


class Networks:
    """The network that was loaded last: the next layer does not wait for it again."""

    def __init__(self, load: Callable[[Path], Predictor]) -> None:
        self._load, self._known = load, None
        self._predictor: Predictor | None = None

    def get(self, path: Path, tta: bool = False) -> Predictor:
        """The network of a file, as it is now; a ``UserError`` if there is none."""
        stamp: Any = None
        if path.is_file():
            about = path.stat()
            stamp = path, about.st_mtime_ns, about.st_size
        if self._predictor is None or stamp is None or stamp != self._known:
            self._predictor, self._known = self._load(path), stamp
        self._predictor.tta = tta
        return self._predictor
