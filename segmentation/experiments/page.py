"""The page of several trainings, written while they run: how far they are, the best so far."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from markupsafe import Markup

from segmentation.evaluation.classical import BASELINES
from segmentation.evaluation.pages import duration, number, render
from segmentation.io.files import read_json, write_bytes
from segmentation.training.report import PAGE, SUMMARY

EVERY = 10.0  # seconds from one writing to the next while a training runs
WATCHED = "val/iou"  # of a training that was not tested yet
SHOWN = {"image_iou": "IoU, mean over images", "ap50": "AP50"}


@dataclass
class Part:
    """One training of several."""

    name: str
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    folder: Path | None = None  # of the run; of one at work that of its experiment
    seconds: float = 0.0
    scores: dict[str, Any] = field(default_factory=dict)
    baselines: list[dict[str, Any]] = field(default_factory=list)  # scores, Otsu's first


class RunsPage:
    """Written at the start, while a training runs, after each, and at the end, however that comes.

    ``names`` are those of the trainings, in order.
    """

    def __init__(self, path: Path, title: str, names: Sequence[str]) -> None:
        self.path, self.title = path, title
        self.parts = {name: Part(name) for name in names}
        self.more: dict[str, Any] = {}  # a table under the list: head, rows
        self.scores: dict[str, Any] = {}  # of all of them: what scores.json holds
        self._began, self._share, self._written, self._left = 0.0, 0.0, 0.0, True

    def __enter__(self) -> Self:
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left = False
        self.write(stopped=kind is not None)

    def begin(self, name: str, home: Path) -> None:
        """A training begins, whose run makes its folder in ``home``."""
        part = self.parts[name]
        part.state, part.folder, self._began, self._share = "running", home, time.monotonic(), 0.0
        self.write()

    def tick(self, share: float) -> None:
        """The training at work is so far, 0…1."""
        self._share = share
        if time.monotonic() - self._written >= EVERY:
            self.write()

    def end(self, name: str, found: tuple[Path, float] | None) -> None:
        """A training has ended: its run and seconds; ``None`` where it failed."""
        part = self.parts[name]
        if found is None:
            part.state = "failed"
        else:
            part.state, part.folder, part.seconds = "done", *found
            report = _content(part.folder / "scores.json")
            part.scores = report.get("network") or {}
            part.baselines = [report.get(name) or {} for name in BASELINES]
        self.write()

    def write(self, stopped: bool = False) -> None:
        """Write the page, whole or not at all."""
        parts = [*self.parts.values()]
        running = next((part for part in parts if part.state == "running"), None)
        failed = sum(part.state == "failed" for part in parts)
        done = failed + sum(part.state == "done" for part in parts)
        about = f"{done - failed} of {len(parts)} done" + f", {failed} failed" * bool(failed)
        if running and not stopped:
            about = f"{running.name} ({done + 1} of {len(parts)}) is at work"
            left = self._seconds_left(parts)
            about += f", about {duration(left)} left" if left is not None else ""
        elif stopped:
            about = f"Interrupted: {about}; the same command goes on with the others"
        share = (done + (self._share if running else 0)) / len(parts)
        tested = [part for part in parts if part.scores]
        score = next((s for s in (*SHOWN, "iou") if all(s in p.scores for p in tested)), "iou")
        best = max(tested, key=lambda part: part.scores.get(score) or 0.0, default=None)
        text = render(
            "runs.html",
            title=self.title,
            live=self._left and not stopped,
            stopped=stopped,
            share=share,
            about=f"{about} ({datetime.now():%Y-%m-%d %H:%M:%S})",
            best=best and f"{best.name}: {SHOWN.get(score, score)} {number(best.scores[score])}",
            head=["", "state", *SHOWN.values(), "Otsu’s threshold, IoU", "best val/iou", "took"],
            rows=[self._row(part) for part in parts],
            more=self.more,
            scores=self.scores,
        )
        write_bytes(self.path, text.encode())
        self._written = time.monotonic()

    def _seconds_left(self, parts: Sequence[Part]) -> float | None:
        spent = time.monotonic() - self._began
        took = [part.seconds for part in parts if part.seconds]
        each = sum(took) / len(took) if took else None
        if self._share > 0.05:
            each = each or spent / self._share
            now = spent / self._share - spent
        elif each is None:
            return None
        else:
            now = max(0.0, each - spent)
        return now + each * sum(part.state == "waiting" for part in parts)

    def _row(self, part: Part) -> list[Any]:
        name: Any = part.name
        folder = part.folder
        if part.state == "running" and folder is not None:  # the run at work is the newest
            found = sorted(folder.glob(f"*/{PAGE}"), key=lambda path: path.stat().st_mtime)
            folder = found[-1].parent if found else None
        val = None
        if folder is not None and (folder / PAGE).exists():
            link = quote(Path(os.path.relpath(folder / PAGE, self.path.parent)).as_posix())
            name = Markup('<a href="{}">{}</a>').format(link, name)
            val = _content(folder / SUMMARY).get("metrics", {}).get(WATCHED, {}).get("best")
        ours, state = part.scores.get("image_iou"), Markup.escape(part.state)
        theirs = [scores.get("image_iou") for scores in part.baselines] or [None]
        best = max((score for score in theirs if score is not None), default=None)
        if state == "failed" or (ours is not None and best is not None and ours < best):
            what = "Otsu’s threshold" if best == theirs[0] else "the classical baseline"
            below = state if state == "failed" else f"done, below {what}"
            state = Markup('<span class="bad">{}</span>').format(below)
        took = duration(part.seconds) if part.seconds else None
        return [name, state, *(part.scores.get(score) for score in SHOWN), theirs[0], val, took]


def _content(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}
