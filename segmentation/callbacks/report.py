"""The test report: scores of the network and of Otsu's threshold, per image, by kind, pictured."""

import json
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.datasets import Batch
from segmentation.data.images import write_bytes, write_image, write_table
from segmentation.metrics import functional
from segmentation.overlays import error_overlay
from segmentation.targets import otsu

FIELDS = ("method", "id", "kind", "tp", "fp", "fn", "tn", "iou", "f1", "precision", "recall")


@dataclass(frozen=True)
class Row:
    """One image scored by one method; ``mask`` is the packed prediction, for its picture."""

    method: str
    id: str
    kind: str
    counts: tuple[int, int, int, int]
    mask: bytes = b""

    @property
    def iou(self) -> float:
        return float(functional.iou(torch.tensor(self.counts)))

    def plain(self) -> dict[str, Any]:
        """The row of the CSV file."""
        scores = scores_of([self])
        names = dict(zip(("tp", "fp", "fn", "tn"), self.counts, strict=True))
        about = {"method": self.method, "id": self.id, "kind": self.kind, **names}
        return about | {k: round(scores[k], 6) for k in ("iou", "f1", "precision", "recall")}


class TestReport(Callback):
    """After a test: ``scores.json``, ``per_image.csv``, ``overlays/`` and a printed table.

    Otsu's threshold is scored on the same images as read, before any preprocessing.

    Args:
        folder: The run's folder.
        pictures: Overlays of so many of the worst, the median and the best images each.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, folder: Path, pictures: int = 4) -> None:
        self.folder, self.pictures = folder, pictures
        self.rows: list[Row] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count each image's hits and errors."""
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        for i, name in enumerate(batch["id"]):
            truth = batch["labels"][i : i + 1].cpu() > 0
            predicted = outputs["foreground"][i : i + 1].cpu() > pl_module.target.threshold
            baseline = torch.from_numpy(otsu(data.gray(name)))[None]
            packed = zlib.compress(np.packbits(predicted.numpy()).tobytes(), 1)
            for method, mask, kept in (("network", predicted, packed), ("otsu", baseline, b"")):
                counts = functional.confusion_counts(mask.float(), truth)[0]
                self.rows.append(Row(method, name, batch["kind"][i], tuple(counts.tolist()), kept))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Bring the processes' rows together; the first process writes."""
        rows = self.rows
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        rows = sorted(rows, key=lambda row: (row.method, row.id))
        self.rows = []
        # The task's own scores, whose AUROC needs the probabilities. It logs them after this hook.
        logged = {
            k.removeprefix("test/"): float(v)
            for metrics in (pl_module.test_metrics, pl_module.test_objects)
            for k, v in metrics.compute().items()
        }
        if trainer.is_global_zero:
            self._write(trainer, rows, logged)

    def _write(self, trainer: Trainer, rows: list[Row], logged: dict[str, float]) -> None:
        by_method = {m: [r for r in rows if r.method == m] for m in ("network", "otsu")}
        scores: dict[str, Any] = {
            "images": len(by_method["network"]),
            "network": logged,
            "otsu": scores_of(by_method["otsu"]),
            "by_kind": {m: _by_kind(part) for m, part in by_method.items()},
        }
        write_bytes(self.folder / "scores.json", json.dumps(scores, indent=1).encode())
        write_table(self.folder / "per_image.csv", FIELDS, (row.plain() for row in rows))
        paths = self._overlays(trainer, by_method["network"])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                captions = [path.stem for path in paths]
                logger.log_image("test/overlays", [str(p) for p in paths], caption=captions)
        print(format_scores(scores))
        print(f"\nscores    {self.folder / 'scores.json'}, per_image.csv")
        print(
            f"overlays  {self.folder / 'overlays'} (purple: right, yellow: missed, green: too much)"
        )
        if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
            print(f"weights   {best}")

    def _overlays(self, trainer: Trainer, rows: list[Row]) -> list[Path]:
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        ranked = sorted(rows, key=lambda row: row.iou)
        count = min(self.pictures, len(ranked))
        middle = (len(ranked) - count) // 2
        picked = {
            "worst": ranked[:count],
            "median": ranked[middle : middle + count],
            "best": ranked[::-1][:count],
        }
        paths = []
        for title, some in picked.items():
            for place, row in enumerate(some, start=1):
                image, truth = data.shown(row.id)
                bits = np.frombuffer(zlib.decompress(row.mask), np.uint8)
                mask = np.unpackbits(bits, count=truth.size).reshape(truth.shape) > 0
                stem = f"{title}-{place}_iou{row.iou:.3f}_{row.id.replace('/', '_')[:40]}"
                paths.append(self.folder / "overlays" / f"{stem}.png")
                write_image(paths[-1], error_overlay(image, mask, truth))
        return paths


def scores_of(rows: list[Row]) -> dict[str, float]:
    """Scores of hard masks from their counts: pooled, and as a mean over images."""
    counts = torch.tensor([row.counts for row in rows])
    pooled = counts.sum(0)
    names = ("iou", "f1", "precision", "recall", "mean_iou")
    scores = {name: float(getattr(functional, name)(pooled)) for name in names}
    scores["image_iou"] = float(functional.iou(counts).double().mean())
    scores["image_f1"] = float(functional.f1(counts).double().mean())
    return scores


def _by_kind(rows: list[Row]) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row.kind].append(row)
    return {kind: {"images": len(some), **scores_of(some)} for kind, some in sorted(kinds.items())}


def format_scores(scores: dict[str, Any]) -> str:
    """The table that is printed after a test."""
    columns = ("image_iou", "image_f1", "iou", "f1", "mean_iou", "auroc", "average_precision")
    titles = ("IoU/image", "F1/image", "IoU", "F1", "mean IoU", "AUROC", "AP")
    lines = [
        f"\nTest scores on {scores['images']} images (IoU and F1 pooled over pixels unless /image)"
    ]
    lines.append(f"{'':24}" + "".join(f"{title:>11}" for title in titles))
    for method in ("network", "otsu"):
        values = (scores[method].get(name) for name in columns)
        cells = "".join(f"{'–' if v is None else format(v, '.4f'):>11}" for v in values)
        lines.append(f"{method:24}{cells}")
    kinds = scores["by_kind"]["network"]
    if len(kinds) > 1:
        lines.append(
            f"\n{'by kind':24}{'images':>11}{'IoU/image':>11}{'Otsu':>11}{'IoU':>11}{'Otsu':>11}"
        )
        for kind, ours in kinds.items():
            theirs = scores["by_kind"]["otsu"][kind]
            pairs = [part[k] for k in ("image_iou", "iou") for part in (ours, theirs)]
            cells = "".join(f"{v:11.4f}" for v in pairs)
            lines.append(f"{kind or '(none)':24}{int(ours['images']):11}{cells}")
    return "\n".join(lines)
