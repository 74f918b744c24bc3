"""The files of a dataset, whether its archive was unpacked or not."""

import os
import zipfile
from collections.abc import Container, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.errors import UserError
from segmentation.io.files import check_inflation, stamps_of
from segmentation.io.images import decode_image, decode_mask
from segmentation.io.listing import UNREAD, is_junk, list_files
from segmentation.io.tiff import decoding, read_bytes
from segmentation.objects import check_size

_LARGEST = 2**30  # bytes of one file: archives are untrusted, and small ones may unpack to any size


class Tree:
    """A folder or a ``.zip`` file as a flat list of files, never unpacked; for any threads."""

    def __init__(self, path: Path) -> None:
        self.path, self._process = path, os.getpid()
        self._zip: zipfile.ZipFile | None = None
        if path.is_file():
            with decoding(path, "zip archive"):
                self._zip = zipfile.ZipFile(path)

    def __reduce__(self) -> tuple[type["Tree"], tuple[Path]]:
        return Tree, (self.path,)

    @cached_property
    def files(self) -> list[str]:
        """Relative POSIX paths, sorted; junk left out."""
        if self._zip is not None:
            found = [member.filename for member in self._zip.infolist() if not member.is_dir()]
        else:
            listing = list_files(self.path)
            if locked := listing.passed_over.get(UNREAD):
                raise UserError(f"{self.name(locked[0])}: the folder cannot be read; allow it")
            return sorted(listing.files)
        return sorted(name for name in found if not is_junk(name))

    @cached_property
    def _stamps(self) -> dict[str, str]:
        if self._zip is not None:  # the archive keeps checksums
            return {i.filename: f"{i.CRC:08x}{i.file_size}" for i in self._zip.infolist()}
        stamps = stamps_of([self.path / name for name in self.files])
        return dict(zip(self.files, stamps, strict=True))

    def read(self, name: str) -> bytes:
        """The bytes of a file; a :class:`UserError` where its checksum is wrong, for example."""
        with decoding(self.name(name), "file in the archive"):
            if self._zip is None:
                return read_bytes(self.path / name)
            if self._process != os.getpid():  # forked: processes would share one place in the file
                self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
            about = self._zip.getinfo(name)
            if (size := about.file_size) > _LARGEST:
                raise UserError(f"{self.name(name)}: {size} bytes are too many for an image")
            check_inflation(self.name(name), size, about.compress_size)
            return self._zip.read(name)

    def image(self, name: str) -> np.ndarray:
        """A file as :func:`segmentation.io.images.read_image` gives it."""
        return decode_image(self.read(name), self.name(name))

    def mask(self, name: str, image: np.ndarray | None = None) -> np.ndarray:
        """A file as ``read_mask`` gives it; of another size than its image, if given: UserError."""
        mask = decode_mask(self.read(name), self.name(name))
        if image is not None:
            check_size(self.name(name), mask.shape, image.shape)
        return mask

    def name(self, name: str) -> str:
        """How a file is called in messages."""
        return f"{self.path}/{name}"

    def stamp(self, *names: str) -> str:
        """What changes when the content of one of some files does."""
        return "|".join(self._stamps[name] for name in names)

    def add(self, found: dict[Any, str], key: Any, name: str) -> None:
        """Put a file under its key; a second one for it is a :class:`UserError`."""
        if (first := found.setdefault(key, name)) != name:
            raise UserError(f"{self.name(name)}: is there again as {first}; keep one")

    def check_partners(self, own: Mapping[Any, str], others: Container[object], says: str) -> None:
        """Raise :class:`UserError` for a file without a partner; ``says`` takes its key as {}."""
        for key, name in own.items():
            if key not in others:
                raise UserError(f"{self.name(name)}: {says.format(key)}")


def find_tree(root: Path, *names: str) -> Tree | None:
    """The first of ``names`` that lies in ``root`` as a folder or as ``NAME.zip``."""
    paths = (root / file for name in names for file in (name, f"{name}.zip"))
    return next((Tree(path) for path in paths if path.exists()), None)


def check_root(root: str | Path, remedy: str) -> Path:
    """``root`` as a path, ``~`` resolved, a folder that is not empty; ``remedy`` ends the message.

    >>> check_root("~/absent", "ask for it")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segmentation.errors.UserError: ...absent: the data root does not exist; ask for it
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"{path}: the data root {what}; {remedy}")
    with decoding(path):
        empty = not any(path.iterdir())
    if empty:
        raise UserError(f"{path}: the data root is empty; {remedy}")
    return path
