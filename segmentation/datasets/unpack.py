"""Zip archives that nobody vouches for: nothing escapes, bursts or is half there.

Own code, for pooch's ``Unzip`` writes straight into the final folder, which a kill leaves half
full, and unpacks whatever an archive holds, of any size.
"""

import contextlib
import errno
import lzma
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from segmentation.errors import UserError
from segmentation.io.listing import is_junk
from segmentation.progress import progress

# Images are compressed already (the official archives: 5 to 1 at most as a whole); deflate can
# reach 1,032 to 1. Only what is large can do harm.
RATIO = 100  # of all bytes unpacked to the archive's own
SMALL = 2**27  # bytes unpacked that are always allowed

# RuntimeError: encrypted, or a method that Python lacks.
FAULTS = (EOFError, RuntimeError, UnicodeDecodeError, struct.error, zipfile.BadZipFile, zlib.error)
Members = dict[str, zipfile.ZipInfo]


def unpack(archive: Path, partial: Path, top: str) -> Path:
    """Unpack into a folder, which is replaced, and return the folder of the files.

    Of an archive that holds a folder ``top``, that alone is taken and returned. One that is broken,
    encrypted or malicious is a :class:`UserError`.
    """
    shutil.rmtree(partial, ignore_errors=True)  # left by one that was killed
    with _opened(archive, top) as (file, members):
        for info in progress(members.values(), f"unpacking {top}"):
            file.extract(info, partial)  # no byte more than announced, and the CRC is checked
    return partial / top if (partial / top).is_dir() else partial


def differences(archive: Path, folder: Path) -> list[str]:
    """Relative paths of the archive's files that ``folder`` lacks or holds with other bytes."""
    found = []
    with _opened(archive, folder.name) as (_, members):
        for name, info in progress(members.items(), f"checking {folder.name}"):
            data = None
            with contextlib.suppress(OSError):
                data = (folder / name).read_bytes()
            if data is None or len(data) != info.file_size or zlib.crc32(data) != info.CRC:
                found.append(name)
    return found


@contextlib.contextmanager
def _opened(archive: Path, top: str) -> Iterator[tuple[zipfile.ZipFile, Members]]:
    """The archive, and those of its files that are wanted by their paths, all of them checked."""
    try:
        with zipfile.ZipFile(archive) as file:
            yield file, _members(file, archive, top)
    except (*FAULTS, lzma.LZMAError, OSError) as error:
        # Broken data give a wrong place in the file, or no number at all (bz2).
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{archive}: cannot be unpacked ({error or type(error).__name__}); remove it and "
            "download it again"
        ) from None


def _members(file: zipfile.ZipFile, archive: Path, top: str) -> Members:
    infos = file.infolist()
    names: set[str] = set()
    fault = ""
    for info in infos:
        path, kind = PureWindowsPath(info.orig_filename), stat.S_IFMT(info.external_attr >> 16)
        # Some file systems hold a and A, or two ways to write ä, for the same.
        name = unicodedata.normalize("NFKC", info.filename).casefold()
        if path.anchor or ".." in path.parts:
            fault = f"{info.orig_filename!r} leads out of the folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = f"{info.orig_filename!r} is a link or a device"
        elif name in names:
            fault = f"{info.orig_filename!r} is there twice"
        names.add(name)
    packed, size = archive.stat().st_size, sum(info.file_size for info in infos)
    if size > max(SMALL, RATIO * packed):
        fault = f"{packed:,} bytes would unpack to {size:,}, a decompression bomb"
    if fault:
        remedy = "do not trust this archive, fetch it from its official place"
        raise UserError(f"{archive}: {fault}; {remedy}")
    files = {i.filename: i for i in infos if not i.is_dir() and not is_junk(i.filename)}
    inside = {n.removeprefix(f"{top}/"): i for n, i in files.items() if n.startswith(f"{top}/")}
    if not files:
        raise UserError(f"{archive}: the archive is empty; remove it and download it again")
    return inside or files
