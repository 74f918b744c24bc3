"""Decoded samples on disk, memory-mapped: read once from the files, then at memory speed.

Kept by hand: arrays of many sizes lie in one memory-mapped file, of which loading processes touch
the window that they crop alone, and it is built once however many processes ask. joblib.Memory
keeps a file for each call, and Zarr copies whole chunks.

A store is a folder with ``data.bin`` (all arrays, one after another) and ``index.json``. Its
folder name holds the key, so a changed file, reader or setting means another folder. It is built
under a temporary name and renamed when whole; a lock lets one process build while others wait.
Several users may share the folder: each has locks of their own (another's cannot be opened), and
of two that build the same store the first one's stays. Whenever one is built, those that nobody
opened for ``KEEP_DAYS`` are removed; each opening is noted in the folder's modification time.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from segmentation.data.masks import MaskFacts
from segmentation.data.sample import Record, Sample, Source
from segmentation.errors import UserError
from segmentation.objects import median_diameter
from segmentation.progress import progress

LAYOUT = 4  # raise when the format of a store changes
KEEP_DAYS = 14

# a store, or what a killed build left of one
_FOLDER = re.compile(r"\.?(?P<store>.+-[0-9a-f]{16})(\.(\d+\.)?part)?")
_AS_THEY_ARE = "id", "group", "kind", "subset", "facts", "channels", "pixel_size"
_DATA, _INDEX = "data.bin", "index.json"

T = TypeVar("T")
R = TypeVar("R")
ArrayPlace = tuple[int, tuple[int, ...], str]  # byte offset, shape, dtype


@dataclass(frozen=True, slots=True)
class StoredSample:
    """What is known of a sample without reading it: as in :class:`Sample`, but for the arrays."""

    id: str
    group: str
    kind: str
    subset: str
    image: ArrayPlace
    labels: ArrayPlace | None
    weight: ArrayPlace | None
    classes: ArrayPlace | None
    objects: int | None  # in the labels; ``None`` without labels
    diameter: float | None  # of a disc of the median object's area, in pixels; ``None`` without
    unannotated: int  # pixels whose label is -1
    digest: str  # of the image's pixels, shape and dtype: equal for exact duplicates
    facts: MaskFacts | None
    channels: tuple[str, ...]
    pixel_size: tuple[float, float] | None


class SampleStore:
    """A read-only sequence of :class:`Sample` over one memory-mapped file.

    Cheap to pickle into data-loading workers: each process maps the file for itself. One that
    cannot be read is an ``OSError``, one that is not whole a ``ValueError``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            rows = json.loads((folder / _INDEX).read_text())
            plain = ({name: _with_tuples(value) for name, value in row.items()} for row in rows)
            every = (row | {"facts": (some := row["facts"]) and MaskFacts(*some)} for row in plain)
            self.entries = [StoredSample(**row) for row in every]
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{folder / _INDEX}: not an index") from error
        self._data = np.memmap(folder / _DATA, mode="r")
        arrays = ((e.image, e.labels, e.weight, e.classes) for e in self.entries)
        places = [place for four in arrays for place in four if place]
        if self._data.size < max((place[0] + _bytes_in(place) for place in places), default=0):
            raise ValueError(f"{folder / _DATA}: too short")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Sample:
        """Sample ``i``: ``image`` as stored, ``labels`` (H, W) in the smallest integer dtype.

        All arrays are read-only views of the file, so that a crop touches only its own pages.
        """
        entry = self.entries[i]
        arrays = (entry.image, entry.labels, entry.weight, entry.classes)
        image, labels, weight, classes = map(self._array, arrays)
        assert image is not None
        about = (entry.group, entry.kind, entry.subset, weight, entry.facts, classes)
        return Sample(entry.id, image, labels, *about, entry.channels, entry.pixel_size)

    def __reduce__(self) -> tuple[type["SampleStore"], tuple[Path]]:
        return SampleStore, (self.folder,)

    def _array(self, place: ArrayPlace | None) -> np.ndarray | None:
        if place is None:
            return None
        offset, shape, dtype = place
        return np.ndarray(shape, dtype, self._data, offset)


def cache_folder() -> Path:
    """``$SEGMENTATION_CACHE``, or the user's cache folder."""
    if chosen := os.environ.get("SEGMENTATION_CACHE"):
        return Path(chosen).expanduser()
    return user_cache_path("segmentation", appauthor=False)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores for this process: by affinity (taskset, Slurm) and a container's ``quota``."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # ValueError for "max"
        allowed, period = map(float, quota.read_text().split())
        cores = min(cores, int(allowed / period))
    return max(1, cores)


def decoded(source: Source, folder: Path | None = None, workers: int | None = None) -> SampleStore:
    """Every sample of a dataset, decoded from its files the first time, by ``workers`` threads.

    Stores are kept in ``folder``, by default :func:`cache_folder`. A file at fault, two samples of
    one id, or a cache folder that cannot be written is a :class:`UserError`.
    """
    records = source.index()
    seen: dict[str, str] = {}
    for record in records:
        if (name := record.id) in seen:
            raise UserError(f"{record.image}: the id {name} is taken by {seen[name]}; rename one")
        seen[record.id] = record.image
    about = [LAYOUT, source.version, [(r.id, r.stamp, r.group, r.subset) for r in records]]

    def read(record: Record) -> Sample:  # a table of groups may change, what is stored may not
        return replace(source.read(record), group=record.group)

    samples = map_ordered(read, records, workers or usable_cores())
    return _open(source.name, about, samples, len(records), folder)


def prepared(
    store: SampleStore, prepare: Callable[[Sample], Sample], settings: str, folder: Path | None
) -> SampleStore:
    """Every sample of ``store`` after ``prepare``, whose ``settings`` say what it does."""
    numbers = range(len(store))
    return derived(store, lambda i: prepare(store[i]), numbers, "prepared", settings, folder)


def derived(
    store: SampleStore,
    make: Callable[[Any], Sample],
    items: Sequence[Any],
    title: str,
    settings: str,
    folder: Path | None = None,
) -> SampleStore:
    """``make`` of each of ``items`` (numbers of samples, say), kept as a store of its own.

    Args:
        store: What the samples are made from.
        make: Item, a plain value, ► sample; called on threads.
        items: See ``make``.
        title: Short name of what is made.
        settings: Says all that ``make`` depends on beside ``store`` and the item.
        folder: As of :func:`decoded`.
    """
    about = [LAYOUT, store.folder.name, title, settings, list(items)]
    name = store.folder.name.rpartition("-")[0].removesuffix("-prepared") + f"-{title}"
    return _open(name, about, map_ordered(make, items, usable_cores()), len(items), folder)


def map_ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 16
) -> Iterator[R]:
    """``map`` on threads, in order, at most ``ahead`` results per worker waiting in memory."""
    items = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(items, workers * ahead)):
            yield from pool.map(function, chunk)


def _open(
    name: str, about: Sequence[object], samples: Iterable[Sample], count: int, folder: Path | None
) -> SampleStore:
    parent = folder or cache_folder()
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    target = parent / f"{name}-{key}"
    try:
        if (store := _whole(target)) is not None:
            return store
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{name}.{_user()}.lock"):
            if (store := _whole(target)) is not None:  # built by another while we waited
                return store
            _build(target, progress(samples, f"caching {name}", count))
            _remove_old(parent)
            return SampleStore(target)
    except OSError as error:
        raise UserError(
            f"{target}: the cache cannot be written ({error.strerror or error}); set "
            "SEGMENTATION_CACHE to a folder with write access and free space"
        ) from None


def _whole(target: Path) -> SampleStore | None:
    """The store, or ``None`` if it is absent or, after a power cut, not whole."""
    try:
        store = SampleStore(target)
    except (FileNotFoundError, ValueError):
        return None
    with contextlib.suppress(OSError):  # a cache that others own is not ours to tidy
        os.utime(target)
    return store


def _build(target: Path, samples: Iterable[Sample]) -> None:
    partial = _partial(target)
    shutil.rmtree(partial, ignore_errors=True)  # left by a build that was killed; we hold the lock
    partial.mkdir()
    try:
        with (partial / _DATA).open("wb") as file:
            entries = [_write(file, sample) for sample in samples]
            file.flush()
            os.fsync(file.fileno())
        (partial / _INDEX).write_text(json.dumps([asdict(entry) for entry in entries]))
        if _whole(target) is None:  # else another user was faster
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
    finally:  # also on Ctrl-C: half a store must not stay behind
        shutil.rmtree(partial, ignore_errors=True)


def _write(file: Any, sample: Sample) -> StoredSample:
    def append(array: np.ndarray) -> ArrayPlace:
        offset = file.tell()
        file.write(np.ascontiguousarray(array).data)
        file.write(b"\0" * (-file.tell() % 8))  # keep every array aligned for its dtype
        return offset, array.shape, array.dtype.str

    image, labels, objects, diameter, unannotated = sample.image, sample.labels, None, None, 0
    if labels is not None:
        flat = labels.reshape(-1).astype(np.intp)
        unannotated = int(np.count_nonzero(flat < 0))
        areas = np.bincount(np.maximum(flat, 0) if unannotated else flat)[1:]
        objects, diameter = int(np.count_nonzero(areas)), median_diameter(areas)
        kind = np.min_scalar_type(int(labels.max(initial=0)))
        kind = np.promote_types(kind, np.int8) if unannotated else kind
        labels = labels.astype(kind, copy=False)
    about = f"{image.shape} {image.dtype.str} ".encode()
    return StoredSample(
        **{name: getattr(sample, name) for name in _AS_THEY_ARE},
        image=append(image),
        labels=None if labels is None else append(labels),
        weight=None if sample.weight is None else append(sample.weight),
        classes=None if sample.classes is None else append(sample.classes.astype(np.uint8)),
        objects=objects,
        diameter=diameter,
        unannotated=unannotated,
        digest=hashlib.blake2b(about + image.tobytes(), digest_size=16).hexdigest(),
    )


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_user()}.part")


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows has no folder that all may write


def _remove_old(parent: Path) -> None:
    """Remove stores and leftovers of builds that were not touched for ``KEEP_DAYS``.

    A process that still has one of them mapped keeps its data for as long as it lives.
    """
    oldest = time.time() - KEEP_DAYS * 24 * 3600
    for path in parent.iterdir():
        with contextlib.suppress(OSError):  # it is gone already, or belongs to someone else
            named = _FOLDER.fullmatch(path.name)
            old = named and path.stat().st_mtime < oldest
            if named and old and {file.name for file in path.iterdir()} <= {_DATA, _INDEX}:
                doomed = _partial(path.with_name(named["store"]))
                path.rename(doomed)  # at once, so that nobody opens half of it
                shutil.rmtree(doomed)


def _bytes_in(place: ArrayPlace) -> int:
    _, shape, dtype = place
    return math.prod(shape) * np.dtype(dtype).itemsize


def _with_tuples(value: Any) -> Any:
    """Tuples for the lists that JSON has made of them."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
