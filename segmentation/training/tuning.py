"""The search for settings of the decoding: by the command ``tune``, and at the end of ``fit``."""

import copy
import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from segmentation.checkpoints import decoding_part, read_checkpoint, sidecar
from segmentation.data.examples import Batch
from segmentation.errors import UserError
from segmentation.io.files import sha256_of, write_json
from segmentation.metrics import OBJECT_SCORES, ScoreTable
from segmentation.objects import clean_objects
from segmentation.progress import progress
from segmentation.score_names import MEANS
from segmentation.targets import Target
from segmentation.training.console import Console
from segmentation.training.resume import ExactResume
from segmentation.trust import class_names

PIXELS = ("iou", "image_iou", "f1", "image_f1")
OBJECTS = [f"{mean}{name}" for mean in ("image_", "") for name in OBJECT_SCORES[:-1]]  # no errors
ONE_SIDED = ("precision_50", "recall_50", "sq", "seg", "matched_iou")
MOST_PIXELS = 2**25  # that fit looks at: 128 images of 512², so that it ends soon
CLEANING = ("min_size", "fill_holes")  # what happens after instances are found


def default_score(monitor: str | None) -> str:
    """The score of objects that chooses the epoch, or image_ap.

    It is image_ap where pixels or a loss choose the epoch, and where the score does not see false
    objects, or missed ones: for SEG a decoding is best that keeps whatever may be an object.

    >>> default_score("val/ap50"), default_score("val/image_seg"), default_score("val/iou")
    ('ap50', 'image_ap', 'image_ap')
    """
    score = (monitor or "").removeprefix("val/")
    one_sided = score.removeprefix("image_") in ONE_SIDED
    return score if score in (*OBJECTS, *MEANS) and not one_sided else "image_ap"


def check_score(key: str, score: str, target: Target | None = None) -> None:
    """Raise a :class:`UserError` unless a decoding (of this target) can be tuned for this score."""
    if score and score not in (*OBJECTS, *PIXELS, *MEANS):
        names = ", ".join((*OBJECTS[:4], "…", *PIXELS, *MEANS))
        raise UserError(f"{key} {score}: not a score to tune for; choose from {names}")
    if score in MEANS and target is not None and not target.class_names:
        raise UserError(f"{key} {score}: the checkpoint tells no classes apart; use pq")


class Search:
    """Coordinate ascent over a (copied) target's tunable settings, on probabilities that are kept.

    One setting after the other takes the value of the highest score with the others as they are,
    until a whole round changes nothing. A tie keeps what was there before: with a few dozen images
    a setting that does not matter should stay as it is.

    Of several processes each has its share of the images. All must search at once: they see the
    same scores, and so they choose the same.
    """

    def __init__(self, target: Target, score: str, device: torch.device | None = None) -> None:
        self.target, self.score, self.device = copy.copy(target), score, device
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

    def run(self, silent: bool = False) -> float:
        """Choose, and return the score of what was chosen."""
        best, last = self.value(), None
        while last != (last := self.settings()):
            tried: Any = [(name, v) for name in self.names for v in self.target.tunable[name]]
            for name, value in (
                tried if silent else progress(tried, "tuning", leave=False, delay=30)
            ):
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
        table = ScoreTable(target.threshold, not pixels, class_names=names).to(self.device)
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
    """During a validation: keep the probabilities, then search and write the sidecar.

    Looks at no more than ``most`` pixels of validation images, evenly spaced ones. Afterwards
    ``before`` and ``after`` are the score as trained and as tuned, ``own`` and ``chosen`` the
    settings, ``images`` how many were looked at, and ``objects`` how many they hold. Without a
    ``score`` it is :func:`default_score` of what chose the epoch.
    """

    def __init__(self, score: str | None = None, most: int | None = None) -> None:
        self.score, self.most = score or "", most

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from the checkpoint's own settings, not from those of an earlier search."""
        self.path = Path(trainer.ckpt_path)  # type: ignore[arg-type]
        trust = class_names(pl_module.config)  # it was built of them
        config = read_checkpoint(self.path, False, trust)["segmentation"].get("config")
        if config is None:
            raise UserError(f"{self.path}: was trained without a config; tune in Python")
        own = decoding_part(config["init_args"]["target"]).get("init_args") or {}
        target = copy.copy(pl_module.target)
        best: Any = trainer.checkpoint_callback
        self.score = self.score or default_score(best and best.monitor)
        check_score("--score", self.score, target)
        signature = inspect.signature(type(getattr(target, "objects", target))).parameters
        for name in target.tunable:
            setattr(target, name, own.get(name, signature[name].default))
        self.search = Search(target, self.score, pl_module.device)
        self.every = 1
        if self.most is not None:
            sizes = (one.image[1][:2] for one in trainer.datamodule.parts["val"].entries)  # type: ignore[attr-defined]
            self.every = -(-sum(height * width for height, width in sizes) // self.most)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        """Keep what the network says of each image."""
        if batch_idx % self.every:
            return
        classes: Any = batch.get("classes", [None] * len(batch["labels"]))
        for probs, truth, kinds in zip(outputs["probs"], batch["labels"], classes, strict=True):
            own = None if kinds is None else kinds.cpu().numpy()
            self.search.add(probs.cpu().numpy(), truth.cpu().numpy(), own, outputs["scale"])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Search and write; of several processes the first one writes."""
        search, start = self.search, time.perf_counter()
        self.own = search.settings()
        mine = len(search.truth), sum(len(np.unique(ids[ids > 0])) for ids in search.truth)
        both = torch.tensor(mine, dtype=torch.float32, device=pl_module.device)
        reduced: Any = trainer.strategy.reduce(both, reduce_op="sum")
        self.images, self.objects = map(int, reduced.tolist())
        self.before, silent = search.value(), not trainer.is_global_zero
        self.after = search.run(silent) if self.objects else self.before
        self.chosen, self.seconds = search.settings(), time.perf_counter() - start
        content = {
            "checkpoint_sha256": sha256_of(self.path),
            "score": self.score,
            "images": self.images,
            "before": self.before,
            "after": self.after,
            "target": self.chosen,
            "tried": search.tried,
        }
        if trainer.is_global_zero and self.objects:
            write_json(sidecar(self.path), content)
            self.tell()

    def tell(self) -> None:
        """Say what the search was worth."""
        print(f"\n{'':16}{'before':>10}{'tuned':>10}")
        for name in self.own:
            print(f"{name:16}{self.own[name]!s:>10}{self.chosen[name]!s:>10}")
        print(
            f"{'val/' + self.score:16}{self.before:10.4f}{self.after:10.4f}\n\n"
            f"{len(self.search.tried)} settings tried on {self.images} validation images in "
            f"{self.seconds:.0f} s\nkept in {sidecar(self.path)}, which test and predict follow"
        )


class TuneBest(Tune):
    """The same at the end of a training, in a few words."""

    def tell(self) -> None:
        changed = {k: v for k, v in self.chosen.items() if v != self.own[k]}
        what = ", ".join(f"{name} {value}" for name, value in changed.items()) or "as trained"
        print(
            f"decoding  {what}:\n          val/{self.score} {self.before:.4f} as trained, "
            f"{self.after:.4f} tuned on {self.images} images in {self.seconds:.0f} s"
        )


def tune_best(trainer: Trainer, task: Any, path: str, score: str) -> Target | None:
    """Tune the decoding of a training's best checkpoint, and let the task decode so.

    Nothing of it is logged, and no callback of the training takes part. Returns the target as
    trained; ``None`` where the decoding stays as it is, which is said.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    why = "" if task.target.tunable else "model.target has no settings to tune"
    if leak := task.data_split and task.data_split.leak("val", task.trained_on):
        why = leak
    tune = TuneBest(score, MOST_PIXELS)
    if not why:
        callbacks, loggers = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
        taking_part = [one for one in callbacks if isinstance(one, ExactResume | Console)]
        trainer.callbacks, trainer.loggers = [*taking_part, tune], []  # type: ignore[attr-defined]
        try:
            trainer.validate(task, datamodule=data, ckpt_path=path, verbose=False)
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers  # type: ignore[attr-defined]
        why = "" if tune.objects else "the validation images hold no object"
    if why:
        if trainer.is_global_zero:
            print(f"decoding  as trained: {why}")
        return None
    untuned = copy.copy(task.target)
    for name, value in tune.chosen.items():
        setattr(task.target, name, value)
    task.test_table.threshold = task.target.threshold
    return untuned if tune.chosen != tune.own else None
