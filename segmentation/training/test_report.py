"""The test report: scores of the network and of its baselines, per image, by kind, pictured."""

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger

from segmentation.data.classes import nearest_level
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.examples import Batch
from segmentation.data.sample import thinned
from segmentation.data.seen import Division
from segmentation.data.sources import about_test
from segmentation.evaluation.annotators import AnnotatorScores
from segmentation.evaluation.classical import BASELINES, Classical, classical_of
from segmentation.evaluation.overlays import class_legend, on_one_size
from segmentation.evaluation.pages import render
from segmentation.evaluation.pictures import LINES, Colours, Picture, legend_text, predicted_ids
from segmentation.evaluation.table import FILE, all_scores, finite, write_images
from segmentation.io.files import write_json
from segmentation.io.images import write_image
from segmentation.metrics import ScoreTable
from segmentation.objects import label_components, to_gray
from segmentation.targets import Target, otsu
from segmentation.training.loggers import RobustWandbLogger

METHODS = ("network", *BASELINES, "nothing")
_MOST = 200  # validation images that choose the classical baseline
UNTUNED = "as trained"  # the network, decoded as before fit tuned that
Found = tuple[bytes, np.ndarray | None]  # packed ids, and the class of each


class TestReport(Callback):
    """After a test: ``scores.json``, ``per_image.csv``, ``overlays/`` and a printed table.

    Beside the network stand Otsu's threshold, on the same images as read, before any preprocessing,
    with its connected components as objects; what a person would do by hand, whose picture and
    filter the validation images choose (``evaluation.classical``); and the prediction of nothing,
    which shows what the policy for empty images is worth. With classes, each of a baseline's
    objects has the class whose mean brightness in train is nearest. Of several annotators, the
    network is scored against each, too, and they against each other. Where ``fit`` has tuned the
    decoding, ``as trained`` is what the network says without that. Each score has its 95 %
    bootstrap interval, over groups where the data has any; and a line says whether the test images
    share their sources with those that were trained on.

    ``pictures`` is the number of overlays of the worst, the median and the best images each.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, folder: Path, pictures: int = 4, colours: Colours = "objects") -> None:
        self.folder, self.pictures = folder, pictures
        self.colours: Colours = colours
        self.baselines: dict[str, ScoreTable] = {}
        self.classical = Classical()
        self.levels = np.zeros(0)  # mean gray value of each class in train
        self.annotators: AnnotatorScores | None = None  # where the truth is several people's
        self.hatched = False
        self.untuned: Target | None = None  # scored, too, where the decoding was tuned in this run
        self.found: dict[str, Found] = {}  # what the network predicted, for the pictures

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        device = pl_module.device
        names = pl_module.target.class_names
        self.baselines = {
            name: ScoreTable(boundary=True, class_names=names).to(device) for name in METHODS[1:]
        }
        if self.untuned is not None:
            table = ScoreTable(self.untuned.threshold, boundary=True, class_names=names)
            self.baselines[UNTUNED] = table.to(device)
        self.found = {}
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        pairs = ((data.pixels(i), data.truth(i)) for i in thinned(data.split.val, _MOST))
        self.classical = classical_of(pairs, "validation images")
        people = getattr(_dataset(trainer), "annotators", ())
        self.annotators = AnnotatorScores(people, METHODS[0], device) if people else None
        if names:
            self.levels = data.class_levels(len(names))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Score the baselines on the batch; the network was by the task."""
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        predicted = predicted_ids(outputs, pl_module.target.threshold, self.colours)
        for name, ids, of_each in zip(batch["id"], predicted, outputs["classes"], strict=True):
            self.found[name] = zlib.compress(ids.tobytes(), 1), of_each
        if self.annotators is not None:
            folder = _dataset(trainer)
            for name, ids in zip(batch["id"], outputs["instances"].numpy(), strict=True):
                self.annotators.update(name, ids, folder.opinions(name))
        truth = batch["labels"]
        images = [data.pixels(name) for name in batch["id"]]
        grays = [to_gray(image) for image in images]
        about = (None, batch["id"], batch["kind"], batch["group"])
        classes: Any = batch.get("classes", ())
        for method, found in {
            "otsu": [label_components(otsu(gray)) for gray in grays],
            "classical": [self.classical.objects(image) for image in images],
            "nothing": [np.zeros(gray.shape, np.int32) for gray in grays],
        }.items():
            pairs = zip(grays, found, strict=True) if pl_module.target.class_names else ()
            kinds = [nearest_level(gray, ids, self.levels) for gray, ids in pairs]
            labels = torch.from_numpy(np.stack(found)).to(truth.device)
            self.baselines[method].update(truth, labels, *about, classes, kinds)
        if self.untuned is not None:
            probs = outputs["probs"]
            labels, of_each = self.untuned.decode_batch(probs, outputs["scale"])
            more = (self.untuned.foreground(probs), *about[1:], classes, of_each)
            self.baselines[UNTUNED].update(truth, labels.to(truth.device), *more)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Bring the processes' rows together; the first process writes."""
        table = pl_module.test_table  # the task resets it after this hook
        frames = [one.rows() for one in (table, *self.baselines.values())]
        logged = {name: float(value) for name, value in table.compute().items()}
        for frame, method in zip(frames, (METHODS[0], *self.baselines), strict=True):
            frame.insert(0, "method", method)
        more: dict[str, Any] = {}
        if self.annotators is not None:
            more["annotators"] = self.annotators.report()
        if says := _about_test(trainer, pl_module):
            more["sources"] = says
        found = self.found
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, found)
            found = {name: one for part in gathered for name, one in part.items()}
        self.baselines, self.found = {}, {}
        if trainer.is_global_zero:
            self._write(trainer, pd.concat(frames, ignore_index=True), found, logged, more)

    def _write(
        self,
        trainer: Trainer,
        frame: pd.DataFrame,
        found: dict[str, Found],
        logged: dict[str, Any],
        more: dict[str, Any],
    ) -> None:
        scores = all_scores(frame)
        scores["network"] |= logged  # AUROC needs the probabilities
        scores["classical_by"] = str(self.classical)
        scores = finite(scores | more)
        write_json(self.folder / "scores.json", scores)
        write_images(self.folder / FILE, frame)
        ours = frame[frame["method"] == "network"]
        picture = partial(self._picture, trainer, found)
        overlays = self._overlays(dict(zip(ours["id"], ours["iou"], strict=True)), picture)
        for logger in trainer.loggers:
            if overlays and isinstance(logger, WandbLogger):
                shown = on_one_size([*overlays.values()])  # as W&B shows them
                logger.log_image("test/overlays", shown, caption=[*overlays])
            if isinstance(logger, RobustWandbLogger):
                logger.log_test(ours.to_dict("records"), picture)
                logger.log_summary(scores)
        print(render("test.txt", scores=scores), end="")
        if people := more.get("annotators"):
            print(render("annotators.txt", rows=people), end="")
        print(f"\nscores    {self.folder / 'scores.json'}, {FILE}")
        says = legend_text(self.colours) + f"; {LINES}" * (self.colours == "objects")
        if "confusion" in scores:
            names = scores["confusion"]["network"]["classes"][1:]
            says += f"; truth and prediction by class: {class_legend(names)}"
        says += "; gray stripes: not annotated" if self.hatched else ""
        print(f"overlays  {self.folder / 'overlays'} ({says})")
        if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
            print(f"weights   {best}")

    def _overlays(
        self, ious: dict[str, float], picture: Callable[[str], Picture]
    ) -> dict[str, np.ndarray]:
        """Write the overlays of some images; returns them by their files' stems."""
        ranked = sorted(ious, key=lambda name: ious[name])
        count = min(self.pictures, len(ranked))
        middle = (len(ranked) - count) // 2
        picked = {"worst": ranked[:count], "median": ranked[middle:][:count]}
        picked["best"] = ranked[::-1][:count]
        overlays = {}
        for title, some in picked.items():
            for place, name in enumerate(some, start=1):
                shown = picture(name)
                stem = f"{title}-{place}_iou{ious[name]:.3f}_{name.replace('/', '_')[:40]}"
                overlays[stem] = shown.overlay()
                self.hatched |= bool((shown.truth < 0).any())
                write_image(self.folder / "overlays" / f"{stem}.png", overlays[stem])
        return overlays

    def _picture(self, trainer: Trainer, found: dict[str, Found], name: str) -> Picture:
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        image, truth, true_classes = data.shown(name)
        packed, classes = found[name]
        ids = np.frombuffer(zlib.decompress(packed), np.int32).reshape(truth.shape)
        pair = None if true_classes is None or classes is None else (true_classes, classes)
        return Picture(image, truth, ids, pair, self.colours)


def _about_test(trainer: Trainer, task: Any) -> str:
    """Whether the test images share their sources with those that were trained on, if known."""
    sources = getattr(trainer.datamodule, "sources", None)  # type: ignore[attr-defined]
    known: Division | None = getattr(task, "data_split", None)
    if not sources or known is None:
        return ""
    return about_test(sources, known.trained(task.seen), known.split.test)


def _dataset(trainer: Trainer) -> Any:
    """The dataset itself, which may have several annotators, without its corrections."""
    source = getattr(trainer.datamodule, "source", None)  # type: ignore[attr-defined]
    return getattr(source, "source", source)
