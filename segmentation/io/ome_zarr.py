"""OME-Zarr (NGFF 0.4 and 0.5): images as planes and in windows, labels read and written in chunks.

The specification: https://ngff.openmicroscopy.org/0.5 and /0.4. Of a pyramid it is level 0.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from segmentation.errors import UserError
from segmentation.io.files import partial_of, unwritten
from segmentation.io.images import as_ids, sixteen_bits
from segmentation.io.metadata import Calibration, clean_names, micrometres, ome_scale
from segmentation.io.stacks import Planes
from segmentation.io.tiff import MOST_PIXELS, decoding
from segmentation.io.windows import Strips, unfit_for_windows

_VERSIONS = ("0.4", "0.5")
# Others may run code, as numcodecs' pickle does.
_CODECS = {"blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "endian", "gzip", "lz4", "lzma"}
_CODECS |= {"sharding_indexed", "shuffle", "transpose", "zlib", "zstd", "default", "v2"}
_LARGEST = 2**30  # bytes of one chunk or shard
_CHUNK = 1024  # pixels, in the labels that are written
_LABELS = "segmentation"  # their name within labels/


@dataclass(frozen=True)
class ZarrPlanes(Planes):
    """The planes of an OME-Zarr."""

    level: Path = Path()  # folder of the array of full resolution
    order: str = ""  # its axes, such as "tczyx"

    def plane(self, number: int) -> np.ndarray:
        with decoding(self.path, "OME-Zarr"):
            array = self._array()
            height, width = self.size or (0, 0)
            if height * width > MOST_PIXELS:
                size = f"{height}×{width} pixels"
                raise UserError(f"{self.path}: {size} are too many; cut it into tiles")
            pixels = self.crop(array, number, slice(None), slice(None))
            return sixteen_bits(pixels, self.channels, self.path)

    def mask(self, number: int) -> np.ndarray:
        labels = open_labels(self.path)
        with decoding(self.path, "OME-Zarr"):
            pixels = labels.crop(labels._array(), number, slice(None), slice(None))
            return as_ids(pixels, self.path)

    def windows(self, number: int, rows: int) -> "ZarrWindows":
        return ZarrWindows(self, number, rows)

    def crop(self, array: Any, number: int, rows: slice, columns: slice) -> np.ndarray:
        """(rows, columns, C) of a plane as stored."""
        place: dict[str, Any] = {"y": rows, "x": columns, "c": slice(None)}
        place |= {axis.lower(): index for axis, index in self.position(number).items()}
        window = np.asarray(array[tuple(place.get(axis, 0) for axis in self.order)])
        window = window.astype(window.dtype.newbyteorder("="), copy=False)
        kept = [axis for axis in self.order if axis in "cyx"]
        window = window.transpose([kept.index(axis) for axis in "yxc" if axis in kept])
        return window if "c" in kept else window[..., None]

    def _array(self) -> Any:
        return _open_array(self.level, self.path)


class ZarrWindows:
    """Windows of a plane: whole rows of chunks are decoded, and the latest ``rows`` are kept."""

    def __init__(self, planes: ZarrPlanes, number: int, rows: int) -> None:
        self.name, self._planes, self._number = str(planes.path), planes, number
        with decoding(planes.path, "OME-Zarr"):
            self._array = planes._array()
            if self._array.dtype not in (np.uint8, np.uint16):
                raise unfit_for_windows(planes.path, self._array.dtype)
            self._strips = Strips(self._decode, self._array.chunks[planes.order.index("y")], rows)
            example = planes.crop(self._array, number, slice(0, 1), slice(0, 1))
        height, width = planes.size or (0, 0)
        self.shape, self.dtype = (height, width, int(example.shape[2])), example.dtype

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window within the image: (rows, columns, C) uint8 or uint16."""
        with decoding(self.name, "OME-Zarr"):
            return self._strips.read(rows, columns)

    def _decode(self, rows: slice) -> np.ndarray:
        strip = self._planes.crop(self._array, self._number, rows, slice(None))
        return np.ascontiguousarray(strip)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._strips


def open_zarr(path: Path) -> ZarrPlanes:
    """Look at an OME-Zarr without reading its pixels; what it is not is a :class:`UserError`."""
    with decoding(path, "OME-Zarr"):
        group, about = path, _attributes(path)
        if "bioformats2raw.layout" in about:
            images = [p.name for p in path.iterdir() if p.name.isdecimal()]
            if len(images) != 1:
                raise UserError(
                    f"{path}: holds {len(images)} images; give one, such as {path.name}/0, a name "
                    "of its own that ends in .zarr"
                )
            group, about = path / images[0], _attributes(path / images[0])
        if "plate" in about or "well" in about:
            raise UserError(f"{path}: is a plate of images; give its fields as images of their own")
        return _planes(path, group, about)


def open_labels(path: Path) -> ZarrPlanes:
    """The one label image within an OME-Zarr, or that itself, if it has no ``labels``."""
    with decoding(path, "OME-Zarr"):
        if not (path / "labels").is_dir():
            return open_zarr(path)
        names = _attributes(path / "labels").get("labels", [])
        if not isinstance(names, list) or len(names) != 1:
            raise UserError(
                f"{path / 'labels'}: lists {len(names)} label images ({', '.join(map(str, names))})"
                "; keep the one that is the truth"
            )
        folder = path / "labels" / str(names[0])
        if not folder.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{path / 'labels'}: {names[0]} leads elsewhere; keep labels within it")
        return _planes(path, folder, _attributes(folder))


def _planes(path: Path, group: Path, about: dict[str, Any]) -> ZarrPlanes:
    scales = about.get("multiscales")
    if not isinstance(scales, list) or not scales:
        raise UserError(f"{group}: is no OME-Zarr image (no multiscales); export it again")
    first = scales[0]
    version = about.get("version", first.get("version", "0.4"))
    axes = first.get("axes", ())
    if version not in _VERSIONS or not all(isinstance(axis, dict) for axis in axes):
        raise UserError(
            f"{path}: OME-Zarr of version {version}; {' and '.join(_VERSIONS)} are read: export it "
            "again as one of these"
        )
    order = "".join(str(axis.get("name", "?")).lower() for axis in axes)
    if len(order) != len(axes) or not {*"yx"} <= {*order} <= {*"tczyx"}:
        raise UserError(f"{path}: axes {order}; t, c, z, y and x are read: export it again")
    level = group / str(first["datasets"][0]["path"])
    if not level.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{path}: its level 0 leads elsewhere; keep the array within it")
    array = _open_array(level, path)
    shape = dict(zip(order, array.shape, strict=True))
    leading = [(axis.upper(), shape[axis]) for axis in order if axis in "tz" and shape[axis] > 1]
    labels = [c.get("label") for c in about.get("omero", {}).get("channels", ())]
    scale = [1.0] * len(order)
    for some in (first["datasets"][0], first):
        for one in some.get("coordinateTransformations", ()):
            if one.get("type") == "scale" and "scale" in one:
                scale = [a * float(b) for a, b in zip(scale, one["scale"], strict=True)]
    steps = [scale[order.index(axis)] for axis in "yx"]
    units = [str(axes[order.index(axis)].get("unit", "")) for axis in "yx"]
    size = micrometres(steps, units)
    run, lengths = "".join(axis for axis, _ in leading), tuple(length for _, length in leading)
    names, scaled = clean_names(labels, shape.get("c", 1)), ome_scale(size)
    calibration, here = Calibration("ome", size, scaled), (shape["y"], shape["x"])
    return ZarrPlanes(path, run, lengths, here, names, calibration, level, order)


def _attributes(group: Path) -> dict[str, Any]:
    """What a group says of itself: NGFF 0.5 under "ome" in zarr.json, 0.4 in .zattrs."""
    if (file := group / "zarr.json").exists():
        found = json.loads(file.read_text(encoding="utf-8")).get("attributes", {})
        return dict(found.get("ome", found))
    if (file := group / ".zattrs").exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    raise UserError(f"{group}: is no OME-Zarr (neither zarr.json nor .zattrs); export it again")


def _open_array(level: Path, path: Path) -> Any:
    import zarr  # takes half a second

    files = (level / "zarr.json", level / ".zarray")
    about = json.loads(next(file for file in files if file.exists()).read_text(encoding="utf-8"))
    stored = about.get("codecs") or [about.get("compressor"), *(about.get("filters") or ())]
    if odd := sorted({*_codec_names(stored)} - _CODECS):
        raise UserError(f"{path}: is stored by {odd[0]}, which is not read; save it by zstd")
    array: Any = zarr.open_array(level, mode="r")
    if array.dtype.kind not in "buif":
        raise UserError(f"{path}: pixels are {array.dtype}; save them as 8 or 16 bit integers")
    size = math.prod(array.shards or array.chunks) * array.dtype.itemsize
    if size > _LARGEST:
        raise UserError(f"{path}: chunks of {size / 2**30:.1f} GiB; save it in smaller ones")
    return array


def _codec_names(stored: Any) -> Iterator[str]:
    for codec in filter(None, stored):
        yield str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        more = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):
            yield from _codec_names(more.get(key, ()))


def write_labels(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bands: Iterable[np.ndarray],
    planes: Planes,
) -> None:
    """Write a label image as NGFF 0.4, ``path/labels/segmentation``, in chunks: whole or not.

    Args:
        path: A folder NAME.zarr, which is replaced.
        shape: (…, H, W), first the lengths of a stack.
        dtype: Of the ids.
        bands: Rows from top to bottom, of one plane after another, as many at a time as wanted.
        planes: Of the image: their axes and its scale.
    """
    import numcodecs
    import zarr

    axes = [{"name": a.lower()} for a in planes.axes]
    for axis in axes:
        axis |= {"t": {"type": "time"}, "z": {"type": "space"}}.get(axis["name"], {})
    size = planes.calibration.pixel_size
    unit = {"unit": "micrometer"} if size else {}
    axes += [{"name": name, "type": "space", **unit} for name in "yx"]
    scale = [*(1.0 for _ in planes.axes), *(size or (1.0, 1.0))]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    about = {"version": "0.4", "axes": axes, "datasets": [level], "name": _LABELS}
    partial = partial_of(path)
    chunks = (*(1 for _ in shape[:-2]), *(min(_CHUNK, side) for side in shape[-2:]))
    try:
        with unwritten(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            inside = {**level, "path": f"labels/{_LABELS}/0"}
            whole = {"multiscales": [{**about, "datasets": [inside]}]}  # for viewers of images
            root = zarr.create_group(partial, zarr_format=2, overwrite=True, attributes=whole)
            labels = root.create_group("labels", attributes={"labels": [_LABELS]})
            source = {"version": "0.4", "source": {"image": "../../"}}
            attributes = {"multiscales": [about], "image-label": source}
            group = labels.create_group(_LABELS, attributes=attributes)
            more: Any = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
            more |= {"shape": shape, "chunks": chunks, "dtype": dtype}
            array: Any = group.create_array("0", compressors=numcodecs.Zlib(1), **more)
            for place, top, rows in _blocks(bands, shape):
                array[(*place, slice(top, top + len(rows)), slice(None))] = rows
            remove_zarr(path)
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            remove_zarr(partial)


def remove_zarr(path: Path) -> None:
    """Remove a folder of ours with all that is in it; a file or nothing may be there instead."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _blocks(
    bands: Iterable[np.ndarray], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], int, np.ndarray]]:
    """Rows of whole chunks: the plane's place, the first row, and the rows."""
    *lengths, height, _ = shape
    source, kept = iter(bands), np.zeros((0, shape[-1]), np.uint8)
    for place in np.ndindex(*lengths):
        for top in range(0, height, _CHUNK):
            wanted = min(_CHUNK, height - top)
            parts, count = [kept], len(kept)
            while count < wanted:
                if (part := next(source, None)) is None:
                    raise ValueError(f"too few rows for {shape}")
                parts.append(part)
                count += len(part)
            joined = np.concatenate([part for part in parts if len(part)])
            kept = joined[wanted:].copy()
            yield place, top, joined[:wanted]
