"""The record of a prediction: by which checkpoint and settings, and what is done already.

``manifest.json`` is for people and other programs. Beside it ``.state/`` keeps one small file for
each image that is done, with its rows of the tables: written last, whole or not at all, so that an
interrupted prediction goes on where it stopped. It is read row by row, for there may be a million;
and as a stranger's data: files outside the output folder are never touched for what it says.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmentation.errors import UserError, printable
from segmentation.io.files import fitting, read_json, write_bytes, writing
from segmentation.io.ome_zarr import remove_zarr

_KINDS = ("masks", "labels", "probabilities", "overlays", "geojson", "rois")  # subfolders
_LONGEST = 2**20  # characters of a record
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
AddRows = Callable[[str, Iterable[Mapping[str, Any]]], None]


class Manifest:
    """What is done in an output folder; :class:`UserError` if other settings made what is in it.

    ``about`` is what else is worth knowing, such as versions; it may differ between two runs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "manifest.json"
        self.settings, self.about = json.loads(json.dumps(settings)), about
        if self.path.exists():
            self._refuse_other_settings()
        if (folder / ".state").is_symlink():
            raise UserError(f"{folder / '.state'}: leads elsewhere; use another --output")
        # Not one after another: a network file system remembers for a while that a file is absent.
        self._known = set((folder / ".state").rglob("*.json"))

    def is_done(self, image: str, stem: str, stamp: Callable[[], str]) -> bool:
        """Whether an image has all its files, under these names, and has not changed since."""
        record = self.record(image) if self._state(image) in self._known else None
        return record is not None and record["stem"] == stem and record["stamp"] == stamp()

    def record(self, image: str) -> dict[str, Any] | None:
        """Stem, stamp and outputs of an image that is done; ``None`` for another one."""
        try:
            with self._state(image).open(encoding="utf-8") as file:
                record: dict[str, Any] = json.loads(file.readline(_LONGEST))
            names = list(record["outputs"])
            ours = all(self._is_ours(name) and _is_there(self.folder / name) for name in names)
            texts = (record[key] for key in ("image", "stem", "stamp"))
            return record if ours and all(isinstance(text, str) for text in texts) else None
        except (*_BROKEN, OSError):
            return None

    def rows(self, images: Iterable[str], table: str, columns: Sequence[str]) -> Iterator[Any]:
        """Rows of one table, of images that are done."""
        start = json.dumps([table])[:-1]
        for image in images:
            try:
                with self._state(image).open(encoding="utf-8") as file:
                    for line in file:
                        if line.startswith(f"{start}, "):
                            row = dict(json.loads(line)[1])
                            yield {name: row[name] for name in columns if name in row}
            except _BROKEN:
                why = "is broken; delete it, and start the same command again"
                raise UserError(f"{self._state(image)}: {why}") from None

    def more_columns(self, images: Iterable[str]) -> list[str]:
        """The columns that objects of some images have; the first row of an image tells them."""
        names: dict[str, None] = {}
        for image in images:
            with contextlib.suppress(*_BROKEN), self._state(image).open(encoding="utf-8") as file:
                file.readline(_LONGEST)
                table, row = json.loads(file.readline(_LONGEST))
                if table == "columns":
                    names |= dict.fromkeys(map(str, row["names"]))
        return list(names)

    @contextlib.contextmanager
    def recording(
        self, image: str, stem: str, stamp: str, outputs: Iterable[str]
    ) -> Iterator[AddRows]:
        """Within, write an image's ``outputs``; it counts as done when all is written.

        Yields what takes the name of a table and rows of it, plain values.
        """
        record = {"image": image, "stamp": stamp, "stem": stem, "outputs": list(outputs)}
        with writing(self._state(image)) as file:
            file.write(json.dumps(record).encode() + b"\n")

            def add(table: str, rows: Iterable[Mapping[str, Any]]) -> None:
                for row in rows:
                    file.write(json.dumps([table, row]).encode() + b"\n")

            yield add

    def forget(self, image: str) -> None:
        """Remove what an earlier run made of an image that must be done anew, or cannot be."""
        outputs = (self.record(image) or {}).get("outputs", ())
        for path in (*(self.folder / name for name in outputs), self._state(image)):
            try:
                remove_zarr(path) if path.suffix == ".zarr" else path.unlink(missing_ok=True)
            except OSError as error:
                why = f"cannot be replaced ({error.strerror}); use another --output"
                raise UserError(f"{path}: {why}") from None

    def write(self, images: Iterable[str], faults: Mapping[str, str], complete: bool) -> None:
        """Write ``manifest.json``: images that are done, and why others were left out."""
        records = filter(None, map(self.record, images))
        keys = ("image", "stamp", "outputs")
        manifest = {
            "complete": complete,
            "settings": self.settings,
            **self.about,
            "files": [{k: r[k] for k in keys} | {"image": printable(r["image"])} for r in records],
            "left_out": [{"image": printable(k), "reason": why} for k, why in faults.items()],
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False, default=str)
        write_bytes(self.path, f"{text}\n".encode())

    def remove_partial_files(self) -> None:
        """Remove the half-written temporary files of an interrupted run."""
        with contextlib.suppress(OSError):
            for partial in self.folder.rglob(".*.part"):
                remove_zarr(partial)

    def _is_ours(self, name: str) -> bool:
        """Whether a name is of a file that predict writes, in this folder and nowhere else."""
        kind = name.partition("/")[0]
        return kind in _KINDS and (self.folder / name).resolve().is_relative_to(
            self.folder.resolve() / kind
        )

    def _state(self, image: str) -> Path:
        return self.folder / ".state" / fitting(f"{printable(image)}.json")

    def _refuse_other_settings(self) -> None:
        try:
            theirs = dict(read_json(self.path)["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            why = "cannot be read, or is no manifest; use another --output"
            raise UserError(f"{self.path}: {why}") from None
        for name in sorted({*self.settings, *theirs}):
            pair = (self.settings.get(name), theirs.get(name))
            ours, other = (json.dumps(value, ensure_ascii=False) for value in pair)
            if ours != other:
                raise UserError(
                    f"{self.folder}: holds predictions with {name} {other:.200}, not {ours:.200}; "
                    "use another --output"
                )


def _is_there(path: Path) -> bool:
    """Whether an output is there: a file, or an OME-Zarr, which is a folder."""
    return path.is_dir() if path.suffix == ".zarr" else path.is_file()
