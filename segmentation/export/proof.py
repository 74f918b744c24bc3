"""Whether an export says the same as the network it was made of, measured on images."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation import __version__
from segmentation.checkpoints import load
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.evaluation import intervals, table
from segmentation.evaluation.pages import number, render
from segmentation.export.images import Images
from segmentation.io.files import write_bytes, write_json
from segmentation.metrics.scores import scores_of
from segmentation.metrics.table import ScoreTable
from segmentation.predictor import Predictor
from segmentation.progress import progress
from segmentation.runtimes.net import Backend, able

# Greatest difference of probabilities; of int8 and of packages, whose percentiles are interpolated,
# 1 - IoU of the foreground with the network's.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.05, "package": 0.05}
EAGER = "checkpoint"
SCORES = ("image_iou", "image_ap")  # that are shown
KEPT = (*SCORES, "iou", "mean_iou", "ap50")
Maps = Callable[..., np.ndarray]  # as Predictor.maps
_TIMED = 8  # images that are predicted twice: the first time a runtime gets ready for a size


@dataclass
class Arm:
    """One runtime, and what was measured of it."""

    maps: Maps
    path: Path
    backend: Backend | None
    scores: ScoreTable
    differences: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def prove(
    ckpt_path: Path,
    eager: Predictor,
    made: Mapping[str, Path],
    found: Images,
    precision: str,
    trust: Iterable[str] = (),
    packaged: Mapping[str, tuple[Path, Maps]] | None = None,
) -> dict[str, Any]:
    """Run every file by every runtime that is installed, beside the checkpoint.

    Args:
        ckpt_path: The checkpoint.
        eager: Its predictor, without members.
        made: Format ► file.
        found: The images.
        precision: Of the files.
        trust: As :func:`.checkpoints.load` takes it.
        packaged: As :func:`.bioimageio.consumers` makes it.

    Returns:
        What ``export.json`` holds: plain values.
    """
    eager.to("cpu")  # as the others
    scored = all(sample.labels is not None for sample in found.samples)
    target = eager.target

    def arm(maps: Maps, path: Path, backend: Backend | None) -> Arm:
        return Arm(maps, path, backend, ScoreTable(target.threshold))

    arms = {EAGER: arm(eager.maps, ckpt_path, "torch")}
    for name, path in made.items():
        for backend in sorted(able(path, precision)):
            if backend == "torch" or find_spec(backend) is not None:
                predictor = load(path, device="cpu", trust=trust, backend=backend)
                arms[f"{name}, {backend}"] = arm(predictor.maps, path, backend)
    arms |= {name: arm(maps, path, None) for name, (path, maps) in (packaged or {}).items()}
    for place, sample in enumerate(progress(found.samples, "proving")):
        _compare(eager, arms, sample, place < _TIMED)
    height, width = max((s.image.shape[:2] for s in found.samples), key=np.prod)
    rows = []
    for name, one in arms.items():
        row: dict[str, Any] = {
            "runtime": name,
            "file": one.path.name,
            "megabytes": _size(one.path) / 1e6,
            "ms": 1e3 * float(np.mean(one.seconds)),
            "peak_megabytes": one.backend
            and peak_megabytes(one.path, one.backend, (height, width), trust),
        }
        if name != EAGER:
            row |= {
                "largest_difference": max(one.differences),
                "same_objects": float(np.mean(one.same)),
                "foreground_iou": float(np.mean(one.overlaps)),
            }
        rows.append(row)
    if scored:
        _add_scores(rows, [one.scores for one in arms.values()])
    return {
        "checkpoint": ckpt_path.name,
        "precision": precision,
        "images": len(found.samples),
        "on": found.where,
        "calibrated_on": found.calibrated_on,
        "rows": rows,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "versions": {"segmentation": __version__, "torch": str(torch.__version__)}
        | {name: version(name) for name in ("onnx", "onnxruntime", "openvino") if find_spec(name)},
    }


def tell(report: dict[str, Any], output: Path, tolerance: float | None = None) -> None:
    """Print the table and write ``export.json`` and ``export.html``.

    Raises:
        UserError: An export is farther from the network than the tolerance.
    """
    precision = report["precision"]
    allowed = TOLERANCE[precision] if tolerance is None else tolerance
    report = report | {"tolerance": allowed}
    head, rows = _table(report)
    page = render("export.html", title="Export", report=report, head=head, rows=rows)
    write_json(output / "export.json", table.finite(report))
    write_bytes(output / "export.html", page.encode())
    texts = [head, *([number(v) if isinstance(v, float) else str(v) for v in r] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for text in texts:
        first, *others = (
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(text, widths, strict=True))
        )
        print("  ".join((first, *others)))
    print(
        f"\non        {report['on']}"
        + f"; calibrated on {report['calibrated_on']}" * bool(report["calibrated_on"])
    )
    print(f"page      {output / 'export.html'}")
    for row in report["rows"][1:]:
        package = row["runtime"].startswith("bioimageio")
        by_pixels = package or precision == "int8"
        apart = 1 - row["foreground_iou"] if by_pixels else row["largest_difference"]
        most = TOLERANCE["package"] if package and tolerance is None else allowed
        if not apart <= most:
            said = "its foreground differs" if by_pixels else "its probabilities differ"
            other = "--intensity_range" if package else "--precision"
            raise UserError(
                f"{output / row['file']}: {said} by {apart:.3g} from the checkpoint's, more than "
                f"the tolerance {most:g}; do not use it, or choose another {other}"
            )


def peak_megabytes(
    path: Path, backend: Backend, size: tuple[int, int], trust: Iterable[str] = ()
) -> float | None:
    """Peak memory of a process that predicts one image of this size; ``None`` if it fails."""
    module = "segmentation.export.memory"
    words = [str(path), backend, *map(str, size), *trust]
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)
    try:
        return float(done.stdout.split()[-1]) if done.returncode == 0 else None
    except (IndexError, ValueError):
        return None


def apart(probs: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two answers; of values above 1, such as lengths, as a share.

    >>> round(apart(np.array([0.5, 100.1]), np.array([0.502, 100.0])), 6)
    0.002
    """
    return float((np.abs(probs - expected) / np.maximum(np.abs(expected), 1)).max())


def _compare(eager: Predictor, arms: Mapping[str, Arm], sample: Sample, timed: bool) -> None:
    """Predict an image in every way."""
    scale = eager.scale(sample.pixel_size)
    expected: tuple[np.ndarray, Any] | None = None
    for one in arms.values():
        about = sample.image, sample.channels, sample.pixel_size
        probs = one.maps(*about)
        if timed:
            start = time.perf_counter()
            one.maps(*about)
            one.seconds.append(time.perf_counter() - start)
        found = eager.decode(probs, scale)
        if expected is None:
            expected = probs, found
        else:
            one.differences.append(apart(probs, expected[0]))
            one.same.append(bool(np.array_equal(found.labels, expected[1].labels)))
            either = (found.mask | expected[1].mask).sum()
            both = (found.mask & expected[1].mask).sum()
            one.overlaps.append(float(both / either) if either else 1.0)
        if sample.labels is not None:
            one.scores.update(
                torch.from_numpy(sample.labels.astype(np.int32))[None],
                torch.from_numpy(found.labels)[None],
                torch.from_numpy(found.probabilities)[None],
                ids=[sample.id],
                groups=[sample.group],
            )


def _add_scores(rows: Sequence[dict[str, Any]], tables: Sequence[ScoreTable]) -> None:
    """The scores of every runtime, and their differences from the checkpoint's with intervals."""
    frames = [one.rows() for one in tables]
    scores = [scores_of(table.columns(frame)) for frame in frames]
    groups = frames[0]["group"].tolist()
    named = {(i, name): one[name] for i, one in enumerate(scores) for name in SCORES}
    drawn = intervals.resample(named, groups if len({*groups}) > 1 else None)
    for i, row in enumerate(rows):
        row["scores"] = {name: one.value for name, one in scores[i].items() if name in KEPT}
        if i:
            row["loss"] = {
                name: [
                    named[0, name].value - named[i, name].value,
                    *intervals.percentile_interval(drawn[0, name] - drawn[i, name]),
                ]
                for name in SCORES
            }


def _table(report: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the table that is shown."""
    head = ["", "MB", "ms/image", "peak MB", "largest difference", "same objects", "same pixels"]
    scored = "scores" in report["rows"][0]
    head += [title for title in ("IoU", "loss", "AP", "loss") if scored]
    rows = []
    for row in report["rows"]:
        share = (row.get("same_objects"), row.get("foreground_iou"))
        cells = [row["runtime"], row["megabytes"], row["ms"], row["peak_megabytes"]]
        cells += [row.get("largest_difference")]
        cells += ["–" if one is None else f"{100 * one:.2f} %" for one in share]
        for name in SCORES if scored else ():
            cells.append(row["scores"][name])
            loss = row.get("loss", {}).get(name)
            cells.append("–" if loss is None else f"{loss[0]:.4f} [{loss[1]:.4f}, {loss[2]:.4f}]")
        rows.append(["–" if cell is None else cell for cell in cells])
    return head, rows


def _size(path: Path) -> int:
    """Bytes of a file, with the weights that OpenVINO keeps beside it."""
    weights = path.with_suffix(".bin")
    more = weights.stat().st_size if path.suffix == ".xml" and weights.exists() else 0
    return path.stat().st_size + more
