"""Settings of the decoding, chosen on the validation images and kept beside the checkpoint."""

import copy
import inspect
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from segmentation.checkpoints import decoding, read_checkpoint, sidecar
from segmentation.data.examples import Batch
from segmentation.errors import UserError
from segmentation.io.files import sha256_of, write_bytes
from segmentation.metrics import OBJECT_SCORES, ScoreTable
from segmentation.objects import clean_objects
from segmentation.progress import progress
from segmentation.score_names import MEANS
from segmentation.targets import Target
from segmentation.training.cli import run
from segmentation.trust import class_names

PIXELS = ("iou", "image_iou", "f1", "image_f1")
OBJECTS = [f"{mean}{name}" for mean in ("image_", "") for name in OBJECT_SCORES[:-1]]  # no errors
CLEANING = ("min_size", "fill_holes")  # what happens after instances are found


def tune(*options: str, ckpt_path: Path, score: str = "image_ap") -> None:
    """Choose threshold, seeds and sizes of the decoding on the validation images.

    All other options (--config, --data.…, --trainer.…) are those of validate. The settings are kept
    beside the checkpoint, in NAME.tuned.json; test and predict follow them.

    Args:
        ckpt_path: Written by fit.
        score: What is to be highest: image_ap (Kaggle's), ap50, pq, aji, seg, image_iou, class_pq…
    """
    command = ["validate", "--ckpt_path", str(ckpt_path), *options]
    run(command, [Tune(score)], tuned=False)


class Search:
    """Coordinate ascent over a (copied) target's tunable settings, on probabilities that are kept.

    One setting after the other takes the value of the highest score with the others as they are,
    until a whole round changes nothing. A tie keeps what was there before: with a few dozen images
    a setting that does not matter should stay as it is.
    """

    def __init__(self, target: Target, score: str) -> None:
        self.target, self.score = copy.copy(target), score
        self.probs: list[np.ndarray] = []  # (K, H, W) float16: half the memory, off by .0002
        self.truth: list[np.ndarray] = []
        self.classes: list[np.ndarray | None] = []
        self.scales: list[float] = []
        self.tried: list[dict[str, Any]] = []
        self._found: tuple[Any, list[np.ndarray]] = (None, [])
        self._scores: dict[tuple[Any, ...], float] = {}  # rounds come by the same settings again
        # Pixels count as foreground by their probability alone.
        self.names = ["threshold"] if score in PIXELS else list(target.tunable)

    def add(
        self,
        probs: np.ndarray,
        truth: np.ndarray,
        classes: np.ndarray | None = None,
        scale: float = 1.0,
    ) -> None:
        """Keep an image's (K, H, W) probabilities, (H, W) true ids and the class of each.

        ``scale`` is that by which it was magnified for the network.
        """
        self.scales.append(scale)
        self.probs.append(probs.astype(np.float16))
        self.truth.append(truth.astype(np.int32))
        self.classes.append(classes)

    def settings(self) -> dict[str, Any]:
        """The values that are chosen now."""
        return {name: getattr(self.target, name) for name in self.target.tunable}

    def run(self) -> float:
        """Choose, and return the score of what was chosen."""
        best, last = self.value(), None
        while last != (last := self.settings()):
            tried = [(name, value) for name in self.names for value in self.target.tunable[name]]
            for name, value in progress(tried, "tuning"):
                kept = getattr(self.target, name)
                setattr(self.target, name, value)
                if (score := self.value()) > best:
                    best = score
                else:
                    setattr(self.target, name, kept)
        return best

    def value(self) -> float:
        """The score of the present settings over all images."""
        key = tuple(self.settings().values())
        if key not in self._scores:
            self._scores[key] = self._measured()
            self.tried.append({**self.settings(), self.score: round(self._scores[key], 6)})
        return self._scores[key]

    def _measured(self) -> float:
        target, pixels = self.target, self.score in PIXELS
        names = target.class_names if self.score in MEANS else ()
        table = ScoreTable(target.threshold, not pixels, class_names=names)
        settings = {k: v for k, v in self.settings().items() if k not in CLEANING}
        if not pixels and settings != self._found[0]:  # only then are instances made anew
            both = zip(self.probs, self.scales, strict=True)
            labels = [target.at_scale(s).instances(p.astype(np.float32)) for p, s in both]
            self._found = settings, labels
        for i, truth in enumerate(self.truth):
            if pixels:
                probs = torch.from_numpy(self.probs[i].astype(np.float32))[None]
                what: dict[str, Any] = {"probs": target.foreground(probs)}
            else:
                found = self._found[1][i]
                least = target.at_scale(self.scales[i]).min_size
                cleaned = clean_objects(found, least, target.fill_holes)
                what = {"labels": torch.from_numpy(cleaned)[None]}
                if names:
                    kinds = target.classify(self.probs[i].astype(np.float32), cleaned)
                    what |= {"classes": [self.classes[i]], "found_classes": [kinds]}
            table.update(torch.from_numpy(truth)[None], **what)
        return float(table.compute()[self.score])


class Tune(Callback):
    """During a validation: keep the probabilities, then search and write the sidecar."""

    def __init__(self, score: str) -> None:
        if score not in (*OBJECTS, *PIXELS, *MEANS):
            names = ", ".join((*OBJECTS[:4], "…", *PIXELS, *MEANS))
            raise UserError(f"--score {score}: not a score to tune for; choose from {names}")
        self.score = score

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from the checkpoint's own settings, not from those of an earlier search."""
        if trainer.world_size > 1:
            raise UserError("tune looks at all images at once; set trainer.devices to 1")
        self.path = Path(trainer.ckpt_path)  # type: ignore[arg-type]
        trust = class_names(pl_module.config)  # it was built of them
        config = read_checkpoint(self.path, False, trust)["segmentation"].get("config")
        if config is None:
            raise UserError(f"{self.path}: was trained without a config; tune in Python")
        own = decoding(config["init_args"]["target"]).get("init_args", {})
        target = copy.copy(pl_module.target)
        if self.score in MEANS and not target.class_names:
            raise UserError(f"--score {self.score}: the checkpoint tells no classes apart; use pq")
        signature = inspect.signature(type(getattr(target, "objects", target))).parameters
        for name in target.tunable:
            setattr(target, name, own.get(name, signature[name].default))
        self.search = Search(target, self.score)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Keep what the network says of each image."""
        classes: Any = batch.get("classes", [None] * len(batch["labels"]))
        for probs, truth, kinds in zip(outputs["probs"], batch["labels"], classes, strict=True):
            own = None if kinds is None else kinds.cpu().numpy()
            self.search.add(probs.cpu().numpy(), truth.cpu().numpy(), own, outputs["scale"])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Search, write, and say what it was worth."""
        search = self.search
        before, own = search.value(), search.settings()
        start = time.perf_counter()
        after = search.run()
        seconds, chosen = time.perf_counter() - start, search.settings()
        content = {
            "checkpoint_sha256": sha256_of(self.path),
            "score": self.score,
            "images": len(search.probs),
            "before": before,
            "after": after,
            "target": chosen,
            "tried": search.tried,
        }
        write_bytes(sidecar(self.path), json.dumps(content, indent=1).encode())
        print(f"\n{'':16}{'before':>10}{'tuned':>10}")
        for name in own:
            print(f"{name:16}{own[name]!s:>10}{chosen[name]!s:>10}")
        print(
            f"{'val/' + self.score:16}{before:10.4f}{after:10.4f}\n\n{len(search.tried)} settings "
            f"tried on {len(search.probs)} validation images in {seconds:.0f} s\nkept in "
            f"{sidecar(self.path)}, which test and predict follow"
        )
