"""The files of a dataset, whether its archive was unpacked or not."""

import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask

# bytes of one file: archives are untrusted, and a small one may unpack to any size
_LARGEST = 2**30


class Tree:
    """A folder or a zip archive as a flat list of files; read-only and safe to use from threads.

    Nothing is ever unpacked to disk.

    Args:
        path: A folder, or a ``.zip`` file.

    Raises:
        UserError: The archive is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
                raise UserError(
                    f"{path}: cannot be read as zip ({error}); download it again"
                ) from None

    def files(self) -> dict[str, str]:
        """Relative POSIX path ► stamp (checksum, or size and time), sorted; junk left out."""
        if self._zip is not None:
            members = (i for i in self._zip.infolist() if not i.is_dir())
            found = {i.filename: f"{i.CRC:08x}{i.file_size}" for i in members}
        else:
            found = {}
            for path in self.path.rglob("*"):
                if path.is_file():
                    found[path.relative_to(self.path).as_posix()] = file_stamp(path)
        return {name: found[name] for name in sorted(found) if not is_junk(name)}

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: It cannot be read, its checksum is wrong, or it is far too large.
        """
        try:
            if self._zip is None:
                return (self.path / name).read_bytes()
            if (size := self._zip.getinfo(name).file_size) > _LARGEST:
                raise UserError(f"{self.name(name)}: {size} bytes are too many for an image")
            return self._zip.read(name)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            # RuntimeError: the member is encrypted, or packed by a method that Python lacks.
            raise UserError(
                f"{self.name(name)}: cannot be read ({error}); copy it again, or unpack the "
                "archive yourself"
            ) from None

    def image(self, name: str) -> np.ndarray:
        """A file as :func:`segmentation.io.images.read_image` gives it."""
        return decode_image(self.read(name), self.name(name))

    def mask(self, name: str) -> np.ndarray:
        """A file as :func:`segmentation.io.images.read_mask` gives it."""
        return decode_mask(self.read(name), self.name(name))

    def name(self, name: str) -> str:
        """How a file is called in messages."""
        return f"{self.path}/{name}"


def find_tree(root: Path, *names: str) -> Tree | None:
    """The first of ``names`` that lies in ``root`` as a folder or as ``NAME.zip``.

    Raises:
        UserError: The archive is broken.
    """
    for name in names:
        for path in (root / name, root / f"{name}.zip"):
            if path.exists():
                return Tree(path)
    return None


def check_root(root: str | Path, remedy: str) -> Path:
    """``root`` as a path, ``~`` resolved; ``remedy`` ends the message.

    Raises:
        UserError: It does not exist, is no folder, cannot be read, or is empty.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"{path}: the data root {what}; {remedy}")
    try:
        empty = not any(path.iterdir())
    except OSError as error:
        raise UserError(f"{path}: the data root cannot be read ({error.strerror})") from None
    if empty:
        raise UserError(f"{path}: the data root is empty; {remedy}")
    return path


def file_stamp(path: Path) -> str:
    """What changes when a file does: its size and time.

    Raises:
        OSError: It is gone.
    """
    about = path.stat()
    return f"{about.st_size}-{about.st_mtime_ns}"


def is_junk(name: str) -> bool:
    """Whether a relative path is what operating systems strew about: hidden, ``__MACOSX``, …"""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)
    return hidden or parts[0] == "__MACOSX" or parts[-1] == "Thumbs.db"
