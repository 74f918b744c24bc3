"""Unpacking zip archives that nobody vouches for: nothing escapes, bursts or is half there."""

import contextlib
import lzma
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from segmentation.errors import UserError
from segmentation.io.tree import is_junk

# Images are compressed already (the official archives: 5 to 1 at most as a whole); deflate can
# reach 1,032 to 1. Only what is large can do harm.
RATIO = 100  # of all bytes unpacked to the archive's own
SMALL = 2**27  # bytes unpacked that are always allowed
FILES = 1_000_000

_REMEDY = "do not trust this archive; fetch it from its official place"
_FAULTS = (
    *(EOFError, NotImplementedError, UnicodeDecodeError, struct.error),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def stage(archive: Path, target: Path) -> Path:
    """Unpack beside ``target``, which takes a rename to become whole: ``.TARGET.part`` is returned.

    If the archive has a folder of the target's name, only what is in it is taken, without it.

    Args:
        archive: A zip file.
        target: Folder that the files are meant for.

    Raises:
        UserError: The archive is broken, encrypted or malicious, or the disk is full. Nothing is
            left then.
    """
    partial = target.with_name(f".{target.name}.part")
    with _opened(archive) as file:
        members = _members(file, archive, target.name)
        size = sum(info.file_size for info in members.values())
        try:
            shutil.rmtree(partial, ignore_errors=True)  # left by one that was killed
            partial.mkdir(parents=True)
            free = shutil.disk_usage(partial).free
            if size > free:
                raise UserError(
                    f"{archive}: unpacks to {size:,} bytes and {free:,} are free in "
                    f"{target.parent}; choose another folder or make room"
                )
            _extract(file, members, partial, target.name)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno is None:  # bz2's way to say that data are broken
                raise _broken(archive, error) from None
            raise UserError(
                f"{target}: cannot be written ({error.strerror}); choose a folder with write "
                "access and free space"
            ) from None
        except BaseException:  # also on Ctrl-C
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return partial


def differences(archive: Path, folder: Path) -> list[str]:
    """Relative paths of the archive's files that ``folder`` lacks or holds with other bytes.

    Raises:
        UserError: The archive cannot be read, or is malicious.
    """
    with _opened(archive) as file:
        members = _members(file, archive, folder.name)
    found = []
    for name, info in tqdm(members.items(), f"checking {folder.name}", disable=None):
        try:
            data = (folder / name).read_bytes()
        except OSError:
            found.append(name)
            continue
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            found.append(name)
    return found


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = zipfile.ZipFile(archive)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror}); check the path") from None
    except _FAULTS as error:
        raise _broken(archive, error) from None
    with file:
        try:
            yield file
        except _FAULTS as error:
            raise _broken(archive, error) from None


def _extract(
    file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path, title: str
) -> None:
    """Write the members; zipfile itself reads no byte more than announced and checks the CRC."""
    made = {folder}
    for name, info in tqdm(members.items(), f"unpacking {title}", disable=None):
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        with file.open(info) as packed, path.open("xb") as unpacked:
            shutil.copyfileobj(packed, unpacked)


def _members(file: zipfile.ZipFile, archive: Path, top: str) -> dict[str, zipfile.ZipInfo]:
    """Relative path ► member of all that is to be unpacked, every member of the archive checked."""
    infos = file.infolist()
    if len(infos) > FILES:
        raise UserError(f"{archive}: {len(infos):,} files are too many; {_REMEDY}")
    for info in infos:
        if fault := _fault(info):
            raise UserError(f"{archive}: {info.orig_filename!r} {fault}; {_REMEDY}")
    infos = [info for info in infos if not info.is_dir()]
    _check_names(archive, infos)
    _check_sizes(archive, infos)
    members = {info.filename: info for info in infos if not is_junk(info.filename)}
    inside = {n.partition("/")[2]: i for n, i in members.items() if n.startswith(f"{top}/")}
    if not members:
        raise UserError(f"{archive}: the archive is empty; remove it and download it again")
    return inside or members


def _fault(info: zipfile.ZipInfo) -> str:
    """Why a member is refused, or ""."""
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver knows of none
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "is an absolute path"
    if ".." in name.replace("\\", "/").split("/"):
        return "leads out of the folder"
    if {"", "."} & set(parts) or set('\\:*?"<>|') & set(name) or not name.isprintable():
        return "is no portable name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is a device"
    if info.flag_bits & 1:
        return "is encrypted"
    return ""


def _check_names(archive: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Some file systems hold a and A, or two ways to write ä, for the same."""
    names: dict[str, str] = {}
    for info in infos:
        key = _folded(info.filename)
        if key in names:
            raise UserError(
                f"{archive}: {info.filename!r} is there twice (as {names[key]!r}); {_REMEDY}"
            )
        names[key] = info.filename
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for key in folders & names.keys():
        raise UserError(f"{archive}: {names[key]!r} is both file and folder; {_REMEDY}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _check_sizes(archive: Path, infos: list[zipfile.ZipInfo]) -> None:
    packed, size = archive.stat().st_size, sum(info.file_size for info in infos)
    if size > SMALL and size > RATIO * packed:
        raise UserError(
            f"{archive}: {packed:,} bytes would unpack to {size:,}, a decompression bomb; {_REMEDY}"
        )
    if sum(info.compress_size for info in infos) > packed:
        raise UserError(f"{archive}: its files overlap, a decompression bomb; {_REMEDY}")


def _broken(archive: Path, error: Exception) -> UserError:
    return UserError(
        f"{archive}: cannot be unpacked ({error or type(error).__name__}); remove it and "
        "download it again"
    )
