"""Files that are whole or absent: written under a temporary name and renamed; and their hashes."""

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from segmentation.errors import Unwritten


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written bit by bit, under a temporary name until all is: whole or absent.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unwritten(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # where the folder itself is unreachable
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Within, what the system says against writing is told in one line, as :class:`Unwritten`."""
    try:
        yield
    except OSError as error:
        raise Unwritten(
            f"{path}: cannot be written ({error.strerror}); choose a folder with write access and "
            "free space"
        ) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file in UTF-8, whole or not at all.

    Args:
        path: Its folders are made.
        fields: Names of the columns, in order.
        rows: Values by field. A missing one is left empty; a field that has no column is a
            ``ValueError``.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fields, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())
