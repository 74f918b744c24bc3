"""Files of ``torch.save`` that know when a bit of them has changed.

Such a file is a zip archive. PyTorch does not look at the check sums of its entries, and nothing
covers what lies between them. So the archive's comment holds the SHA-256 of all that precedes it;
PyTorch and other readers of zip archives pass over it.
"""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from segmentation.errors import UserError
from segmentation.io.files import check_regular

_MARK = b"sha256:"
_SEAL = len(_MARK) + 64  # bytes of the comment
_END = 22  # bytes of the record that ends an archive; the last two are the comment's length


def dump(content: Any, file: BinaryIO) -> None:
    """``torch.save`` into a file that is open for writing, and seal it."""
    hashing: Any = _Hashing(file)
    torch.save(content, hashing)
    if hashing.error is not None:
        raise hashing.error
    file.seek(-2, 2)
    file.write(_SEAL.to_bytes(2, "little") + _MARK + hashing.digest.hexdigest().encode())


def read(path: Path) -> Any:
    """``torch.load`` of tensors and plain values, onto the CPU.

    A file without a seal, of an older version or other software, is held to its own check sums. One
    that is missing, broken, or holds what could run code as it is read is a :class:`UserError`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "x.ckpt")
    >>> with path.open("wb") as file:
    ...     dump({"epoch": 3}, file)
    >>> read(path)
    {'epoch': 3}
    """
    check_regular(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    with file:
        try:
            if zipfile.is_zipfile(file):
                _check_archive(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of broken files, parsers raise whatever they trip over
            why = "not a checkpoint, or a broken one; copy it again"
            if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
                why = (
                    "refused, it holds more than tensors and plain values and could run code; use "
                    "a checkpoint written by this package"
                )
    # Raised behind the handlers: the command line tells the first of a chain of errors.
    raise UserError(f"{path}: {why}")


def _check_archive(file: BinaryIO) -> None:
    """Raise an error if a bit has changed, or if entries are larger than the file."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("its entries are compressed")
        if not archive.comment:
            if (entry := archive.testzip()) is not None:
                raise ValueError(f"{entry} has changed")
        elif _MARK + _sealed_part(file, size - _SEAL) != archive.comment:
            raise ValueError("another check sum")


def _sealed_part(file: BinaryIO, length: int) -> bytes:
    """The digest of the first bytes of a file, in which the comment's length is 0."""
    digest, left = hashlib.sha256(), length - 2
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if file.read(2) != _SEAL.to_bytes(2, "little"):
        raise ValueError("another length of the comment")
    digest.update(b"\0\0")
    return digest.hexdigest().encode()


class _Hashing:
    """A file that takes the digest of what is written.

    PyTorch hides what is raised within it, such as of a full disk, behind an error of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except OSError as error:
            self.error = error
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()
