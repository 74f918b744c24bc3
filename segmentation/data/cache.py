"""Decoded samples on disk, memory-mapped: read once from the files, then at memory speed.

A store is a folder with ``data.bin`` (all arrays, one after another) and ``index.json``. Its
folder name holds the key, so a changed file, reader or setting means another folder. It is built
under a temporary name and renamed when whole; a lock lets one process build while others wait.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from segmentation.data.sample import Sample, Source
from segmentation.errors import UserError

LAYOUT = 1  # raise when the format of a store changes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample's place in ``data.bin``: byte offset, shape and dtype of each array."""

    id: str
    group: str
    kind: str
    subset: str
    image: tuple[int, tuple[int, ...], str]
    labels: tuple[int, tuple[int, ...], str] | None


class Store:
    """A read-only sequence of :class:`Sample` over one memory-mapped file.

    Cheap to pickle into data-loading workers: each process maps the file for itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = json.loads((folder / "index.json").read_text())
        self.entries = [_entry(row) for row in rows]
        self._data: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Sample:
        """Sample ``i``: ``image`` as stored, ``labels`` (H, W) in the smallest unsigned dtype.

        Both are read-only views of the file, so that a crop touches only its own pages.
        """
        entry = self.entries[i]
        image = self._array(entry.image)
        labels = None if entry.labels is None else self._array(entry.labels)
        return Sample(entry.id, image, labels, entry.group, entry.kind, entry.subset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}

    def _array(self, place: tuple[int, tuple[int, ...], str]) -> np.ndarray:
        offset, shape, dtype = place
        if self._data is None:
            self._data = np.memmap(self.folder / "data.bin", mode="r")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.asarray(self._data[offset : offset + size]).view(dtype).reshape(shape)


def cache_folder() -> Path:
    """``$SEGMENTATION_CACHE``, or the user's cache folder."""
    if chosen := os.environ.get("SEGMENTATION_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "segmentation"


def decoded(source: Source, folder: Path | None = None, workers: int | None = None) -> Store:
    """Every sample of a dataset, decoded from its files the first time.

    Args:
        source: The dataset.
        folder: Where stores are kept; :func:`cache_folder` by default.
        workers: Decoding threads; the number of cores by default.

    Raises:
        UserError: A file is at fault, or the cache folder cannot be written.
    """
    records = source.index()
    key = _key([LAYOUT, source.version, [(r.id, r.stamp, r.group, r.subset) for r in records]])
    read = map_ordered(source.read, records, workers or os.cpu_count() or 1)
    return _open(source.name, key, read, len(records), folder)


def prepared(
    store: Store, prepare: Callable[[Sample], Sample], settings: str, folder: Path | None = None
) -> Store:
    """Every sample of ``store`` after ``prepare``, whose ``settings`` say what it does."""
    key = _key([store.folder.name, settings])
    samples = map_ordered(prepare, store, os.cpu_count() or 1)
    return _open(store.folder.name.rpartition("-")[0] + "-prepared", key, samples, len(store), folder)


def map_ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 16
) -> Iterator[R]:
    """``map`` on threads, in order, at most ``ahead`` results per worker waiting in memory."""
    items = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(items, workers * ahead)):
            yield from pool.map(function, chunk)


def _open(
    name: str, key: str, samples: Iterable[Sample], count: int, folder: Path | None
) -> Store:
    parent = folder or cache_folder()
    target = parent / f"{name}-{key}"
    try:
        if not (target / "index.json").exists():
            parent.mkdir(parents=True, exist_ok=True)
            with FileLock(parent / f".{name}.lock"):
                if not (target / "index.json").exists():  # nobody built it while we waited
                    _build(target, tqdm(samples, f"caching {name}", count, disable=None))
        return Store(target)
    except OSError as error:
        raise UserError(
            f"{target}: the cache cannot be written ({error.strerror or error}); set "
            "SEGMENTATION_CACHE to a folder with write access and free space"
        ) from None


def _build(target: Path, samples: Iterable[Sample]) -> None:
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # left by a build that was killed; we hold the lock
    partial.mkdir()
    try:
        entries = []
        with (partial / "data.bin").open("wb") as file:
            for sample in samples:
                image = _append(file, sample.image)
                labels = None
                if sample.labels is not None:
                    smallest = np.min_scalar_type(int(sample.labels.max(initial=0)))
                    labels = _append(file, sample.labels.astype(smallest, copy=False))
                about = (sample.id, sample.group, sample.kind, sample.subset)
                entries.append(Entry(*about, image, labels))
            file.flush()
            os.fsync(file.fileno())
        (partial / "index.json").write_text(json.dumps([asdict(e) for e in entries]))
        partial.replace(target)
    except BaseException:  # also on Ctrl-C: half a store must not stay behind
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _append(file: Any, array: np.ndarray) -> tuple[int, tuple[int, ...], str]:
    offset = file.tell()
    file.write(np.ascontiguousarray(array).data)
    file.write(b"\0" * (-file.tell() % 8))  # keep every array aligned for its dtype
    return offset, array.shape, array.dtype.str


def _entry(row: dict[str, Any]) -> Entry:
    for name in ("image", "labels"):
        if row[name] is not None:
            offset, shape, dtype = row[name]
            row[name] = (offset, tuple(shape), dtype)
    return Entry(**row)


def _key(facts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
