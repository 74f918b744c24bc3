"""The record of a prediction: by which checkpoint and settings, and what is done already.

``manifest.json`` is for people and other programs. Beside it ``.state/`` keeps one small file for
each image that is done, with its rows of the tables: written last, whole or not at all, so that an
interrupted prediction goes on where it stopped. It is read row by row, for there may be a million.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmentation.errors import UserError
from segmentation.io.files import write_bytes, writing


class Manifest:
    """What is done in an output folder.

    Args:
        folder: The output folder.
        settings: What decides the results. Plain values.
        about: What else is worth knowing, such as versions; it may differ between two runs.

    Raises:
        UserError: Other settings made what is in the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "manifest.json"
        self.settings = json.loads(json.dumps(settings))
        self.about = about
        self._check()
        self.write([], {}, complete=False)

    def record(self, image: str) -> dict[str, Any] | None:
        """What :meth:`finish` was told of an image, if it was and its files are still there.

        Each of its tables can be iterated once.
        """
        path = self._state(image)
        try:
            with path.open(encoding="utf-8") as file:
                told: dict[str, Any] = json.loads(file.readline())
            told["tables"] = {name: _rows(path, name) for name in told.pop("names")}
        except (OSError, ValueError, KeyError):
            return None
        return told if all((self.folder / name).is_file() for name in told["outputs"]) else None

    def records(self, images: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Those of the given images that are done, one after another."""
        return (told for told in map(self.record, images) if told is not None)

    def finish(
        self,
        image: str,
        stamp: str,
        outputs: Sequence[str],
        tables: Mapping[str, Iterable[Mapping[str, Any]]],
        **more: Any,
    ) -> None:
        """Note that an image is done.

        Args:
            image: Its path below the images' folder.
            stamp: What changes when it does.
            outputs: The files that were written, below the output folder.
            tables: Rows of each table; plain values.
            more: Other plain values to keep with it.

        Raises:
            UserError: It cannot be written.
        """
        told = {"image": image, "stamp": stamp, "outputs": list(outputs), "names": list(tables)}
        with writing(self._state(image)) as file:
            file.write(json.dumps({**told, **more}).encode() + b"\n")
            for name, rows in tables.items():
                for row in rows:
                    file.write(json.dumps([name, row]).encode() + b"\n")

    def forget(self, image: str) -> None:
        """Remove what an earlier run made of an image that must be done anew, or cannot be.

        Raises:
            UserError: It cannot be removed.
        """
        told = self.record(image)
        state = self._state(image)
        for path in (*(self.folder / name for name in (told or {}).get("outputs", ())), state):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be replaced ({error.strerror}); use another --output"
                ) from None

    def write(self, images: Sequence[str], faults: Mapping[str, str], complete: bool) -> None:
        """Write ``manifest.json``.

        Args:
            images: Those to list, where they are done.
            faults: Image ► why it was left out.
            complete: Whether every image was looked at.

        Raises:
            UserError: It cannot be written.
        """
        files = [{k: r[k] for k in ("image", "stamp", "outputs")} for r in self.records(images)]
        manifest = {
            "complete": complete,
            "settings": self.settings,
            **self.about,
            "files": files,
            "left_out": [{"image": name, "reason": why} for name, why in faults.items()],
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False, default=str)
        write_bytes(self.path, f"{text}\n".encode())

    def sweep(self) -> None:
        """Remove the half-written temporary files of an interrupted run."""
        with contextlib.suppress(OSError):
            for partial in self.folder.rglob(".*.part"):
                partial.unlink(missing_ok=True)

    def _state(self, image: str) -> Path:
        return self.folder / ".state" / f"{image}.json"

    def _check(self) -> None:
        if not self.path.exists():
            return
        try:
            theirs = json.loads(self.path.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path}: cannot be read, or is no manifest; use another --output"
            ) from None
        for name in sorted({*self.settings, *theirs}):
            mine, other = self.settings.get(name), theirs.get(name)
            if mine != other:
                raise UserError(
                    f"{self.folder}: holds predictions with {name} {_short(other)}, not "
                    f"{_short(mine)}; use another --output"
                )


def _rows(path: Path, table: str) -> Iterator[dict[str, Any]]:
    """Rows of one table out of an image's file, as they are asked for."""
    start = json.dumps([table])[:-1]
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            if line.startswith(f"{start}, "):
                yield json.loads(line)[1]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}…"
