"""The files of a dataset, whether its archive was unpacked or not."""

import zipfile
from pathlib import Path, PurePosixPath

from segmentation.errors import UserError


class Tree:
    """A folder or a zip archive as a flat list of files; read-only and safe to use from threads.

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
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: cannot be read as zip ({error}); download it again") from None

    def files(self) -> dict[str, str]:
        """Relative POSIX path ► stamp (checksum, or size and time), sorted; junk left out."""
        if self._zip is not None:
            found = {i.filename: f"{i.CRC:08x}{i.file_size}" for i in self._zip.infolist() if not i.is_dir()}
        else:
            found = {}
            for path in self.path.rglob("*"):
                if path.is_file():
                    about = path.stat()
                    name = path.relative_to(self.path).as_posix()
                    found[name] = f"{about.st_size}-{about.st_mtime_ns}"
        return {name: found[name] for name in sorted(found) if not _junk(name)}

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: It cannot be read, or its checksum is wrong.
        """
        try:
            return self._zip.read(name) if self._zip is not None else (self.path / name).read_bytes()
        except (OSError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            raise UserError(f"{self.name(name)}: cannot be read ({error}); copy it again") from None

    def name(self, name: str) -> str:
        """How a file is called in messages."""
        return f"{self.path}/{name}"


def find_tree(root: Path, *names: str) -> Tree | None:
    """The first of ``names`` that lies in ``root`` as a folder or as ``NAME.zip``."""
    for name in names:
        for path in (root / name, root / f"{name}.zip"):
            if path.exists():
                return Tree(path)
    return None


def check_root(root: str | Path, remedy: str) -> Path:
    """``root`` as a path.

    Raises:
        UserError: It does not exist, is no folder, or is empty.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"{path}: the data root {what}; {remedy}")
    if not any(path.iterdir()):
        raise UserError(f"{path}: the data root is empty; {remedy}")
    return path


def _junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(p.startswith(".") for p in parts) or parts[-1] == "Thumbs.db"
