"""Files that are whole or absent: written under a temporary name and renamed; and their hashes."""

import contextlib
import csv
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from segmentation.errors import Unwritten, UserError

# Several, as a network disk answers them side by side. Small files are shared out by the dozen:
# handing a file to a thread takes longer than to read it.
_READERS, _SHARE = 8, 32
_LONGEST = 255  # bytes of a file's name


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; what the system says against it is :class:`Unwritten`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "new", "greeting.txt")
    >>> write_bytes(path, b"hello")
    >>> sha256_of(path)[:8]
    '2cf24dba'
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written bit by bit, under a temporary name until all is: whole or absent."""
    partial = partial_of(path)
    try:
        with unwritten(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # where the folder itself is unreachable
            partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The temporary name of a file or folder until it is whole, of this process alone."""
    return path.with_name(fitting(f".{path.name}.{os.getpid()}.part"))


def fitting(name: str) -> str:
    """A relative path whose parts are short enough for a file system: others are cut and hashed.

    >>> len(fitting("folder/" + 300 * "x" + ".geojson")), fitting("a/b.png")
    (262, 'a/b.png')
    """
    parts = []
    for part in name.split("/"):
        data, suffix = os.fsencode(part), Path(part).suffix[:20]
        if len(data) > _LONGEST:
            end = f"~{hashlib.sha256(data).hexdigest()[:8]}{suffix}"
            part = data[: _LONGEST - len(end.encode())].decode(errors="ignore") + end
        parts.append(part)
    return "/".join(parts)


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Within, what the system says against writing becomes one line: :class:`Unwritten`."""
    try:
        yield
    except OSError as error:
        raise Unwritten(
            f"{path}: cannot be written ({error.strerror}); choose a folder with write access and "
            "free space"
        ) from None


def check_regular(path: str | Path) -> None:
    """Raise :class:`UserError` for a pipe, a socket or a device: opening one may never end.

    Of a file that is absent, and of a folder, the system itself tells whoever opens it.
    """
    with contextlib.suppress(OSError, ValueError):  # ValueError: a name with a zero byte
        kind = os.stat(path).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise UserError(f"{path}: is a pipe, a socket or a device; give a file")


def check_inflation(name: object, size: int, stored: int) -> None:
    """Raise :class:`UserError` where a few ``stored`` bytes would become very many in memory.

    That is 256 times as many, and more than 256 MiB: an image of one colour, or one that is made to
    fill the memory.
    """
    if size > max(2**28, 256 * stored):
        what = f"{stored} bytes that would take {size / 2**30:.1f} GiB in memory"
        raise UserError(f"{name}: {what}; cut it into tiles")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a pipe or a device :class:`UserError`.

    Of an OME-Zarr, which is a folder, that of all names and contents in it.
    """
    check_regular(path)
    digest = hashlib.sha256()  # hashlib.file_digest takes twice the time for a small file
    if path.suffix.lower() == ".zarr" and path.is_dir():
        for part in sorted(part for part in path.rglob("*") if part.is_file()):
            name = part.relative_to(path).as_posix()
            digest.update(f"{name} {sha256_of(part)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
    with path.open("rb", buffering=0) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def stamps_of(paths: Sequence[Path]) -> list[str]:
    """What each of many files is known by: its SHA-256, for others may have its size and time.

    A file that cannot be read is known by nothing: whoever decodes it says why.
    """

    def some(start: int) -> list[str]:
        found = []
        for path in paths[start : start + _SHARE]:
            try:
                found.append(sha256_of(path))
            except OSError:
                found.append(os.urandom(16).hex())
        return found

    with ThreadPoolExecutor(_READERS) as threads:
        return [one for share in threads.map(some, range(0, len(paths), _SHARE)) for one in share]


def read_json(path: Path) -> Any:
    """What a JSON file holds; whatever is wrong with it is an ``OSError`` or a ``ValueError``."""
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_bytes(path, json.dumps(content, indent=1).encode())


def write_table(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file in UTF-8, whole or not at all; a missing value is left empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, fields, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())
