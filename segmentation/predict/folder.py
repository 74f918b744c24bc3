"""Applying trained networks to a folder of images, by Lightning's own loop over its files."""

import os
import platform
import sys
import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning import Callback, Trainer
from torch.utils.data import IterableDataset

from segmentation import __version__
from segmentation.checkpoints import find_device, load_ensemble
from segmentation.data.preprocess import Preprocess
from segmentation.errors import Unwritten, UserError, printable
from segmentation.evaluation.overlays import class_legend
from segmentation.io.files import sha256_of, write_table
from segmentation.io.images import IMAGE_SUFFIXES
from segmentation.io.listing import NNUNET, channel_files, list_files, say_once
from segmentation.io.run_lengths import RLE_COLUMNS
from segmentation.io.stacks import open_planes
from segmentation.io.tiff import decoding
from segmentation.magnification import unsized
from segmentation.measurements import columns_of_images, object_columns
from segmentation.predict.manifest import Manifest
from segmentation.predict.outputs import FileWriter, Outputs, is_streamed
from segmentation.predictor import Predictor
from segmentation.progress import progress
from segmentation.runtimes.net import ExportedNet
from segmentation.terminal import lightning_quiet

_AHEAD = 3  # files that are read before they are wanted


def predict(
    ckpt_path: list[Path],
    data_images: Path,
    output: Path,
    labels: Literal["tiff", "png", "zarr"] | None = None,
    probabilities: bool = False,
    overlays: bool = False,
    geojson: bool = False,
    rle: bool = False,
    rois: bool = False,
    channels: list[str] | None = None,
    pixel_size: float | None = None,
    diameter: float | Literal["auto"] | None = None,
    tta: bool = False,
    device: str = "auto",
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None,
    trainer_devices: int | None = None,
    trainer_num_nodes: int | None = None,
    trust: list[str] | None = None,
) -> int:
    """Find and measure the objects of a folder of images, by trained checkpoints.

    Started again, it goes on: what is done already, by the same settings and of unchanged images,
    is not done again. Several devices, or several machines under Slurm or torchrun, share the
    folder. The status is 1 when files were left out; they are named at the end.

    Args:
        ckpt_path: Written by fit, prune or export (ONNX and the like, too), or nuclei, which comes
            with the package; the probabilities of several are averaged, and objects are told apart
            as the first one says.
        data_images: Folder of PNG, TIFF (stacks too), JPEG or BMP images; subfolders are kept.
        output: Folder that gets masks/, objects.csv, images.csv and manifest.json.
        labels: Also labels/: each object its own number, 16 or 32 bits (tiff, or zarr: OME-Zarr).
        probabilities: Also probabilities/: 16-bit TIFF, 65535 = certain foreground.
        overlays: Also overlays/: the images with the objects tinted, each class in its colour.
        geojson: Also geojson/: outlines for QuPath.
        rle: Also rle.csv: run lengths as Kaggle wants them.
        rois: Also rois/: outlines for ImageJ's ROI Manager.
        channels: Numbers (from 0) or names of the images' channels, as many as in training and in
            the same order; by default those of the training.
        pixel_size: µm, of images whose files do not tell it.
        diameter: Of the objects in these images, in pixels: images are magnified so that the
            network sees them as large as in its training. auto finds it for each image. By default
            images are seen as they are, by a network trained with preprocess.diameter as if
            theirs was that of the training images.
        tta: Average over eight symmetries: better, 8 times slower.
        device: auto, cpu, cuda, cuda:1, mps.
        backend: What runs the network: torch, onnxruntime or openvino (on the CPU); auto measures
            those that are installed. By default torch, and the fastest that can for an export.
        trainer_devices: Of this machine, each with a process of its own.
        trainer_num_nodes: Machines, on which a cluster starts this command.
        trust: Your own packages whose classes a checkpoint may name: their code runs.
    """
    outputs = Outputs(output, labels, probabilities, overlays, geojson, rle, rois)
    images, left_out = _images(data_images, output)
    task, where = load_ensemble(ckpt_path, tta, trust or (), backend), find_device(device)
    task.predictor.adapt(channels, pixel_size, diameter)
    joined = _joint(data_images, images, task.predictor.preprocess)
    stems = _stems(data_images, images, joined)
    about_images = {"channels": channels, "pixel_size": pixel_size, "diameter": diameter}
    members = (task.predictor, *task.predictor.members)
    others = [one.net.backend for one in members if isinstance(one.net, ExportedNet)]
    settings = {
        "version": __version__,
        "checkpoint_sha256": [sha256_of(path) for path in ckpt_path],
        "images": printable(data_images.resolve()),
        "target": task.target.settings(),
        "tta": [one.tta for one in members],
        "outputs": {k: v for k, v in vars(outputs).items() if k != "folder"},
        **{k: v for k, v in about_images.items() if v is not None},
    }
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"numpy": np.__version__, "opencv": cv2.__version__}
    about: dict[str, Any] = {"checkpoints": list(map(str, ckpt_path)), "device": str(where)}
    about |= {"backend": others} if others else {}  # no setting: another one may be the fastest
    manifest = Manifest(output, settings, {**about, "versions": versions})
    warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning on torch 2.15
    devices = trainer_devices or int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    more = ["magnification"] if diameter == "auto" else []
    more += ["shown"] if any(one.preprocess.decided for one in members) else []
    writer = FolderWriter(manifest, outputs, task.target.class_names, more)
    with lightning_quiet():
        trainer = Trainer(
            accelerator="gpu" if where.type == "cuda" else where.type,
            devices=[where.index] if where.index is not None and devices == 1 else devices,
            num_nodes=trainer_num_nodes or int(os.environ.get("GROUP_WORLD_SIZE", 1)),
            callbacks=writer,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    if trainer.is_global_zero:
        if len(members) > 1:
            print(f"ensemble  of {len(members)} checkpoints")
        if others:
            print(f"backend   {', '.join(dict.fromkeys(others))}")
        manifest.write([], {}, complete=False)
        manifest.remove_partial_files()
    files = FolderFiles(data_images, stems, joined, writer, trainer)
    try:
        with lightning_quiet():
            trainer.predict(task, files, return_predictions=False)
    finally:
        writer.thread.shutdown()
        if trainer.is_global_zero:
            manifest.remove_partial_files()
    return writer.report(list(stems), left_out) if trainer.is_global_zero else 0


class ImageFile:
    """An image file as prediction takes it: iterating gives the pixels, (H, W, C) as read.

    Of a stack or a large image it gives nothing: those are read plane by plane or in windows while
    they are written. What is wrong with the file is raised by iterating.

    Attributes:
        channels: Names of the channels, where the file tells.
        pixel_size: (height, width) in µm, where the file tells.
    """

    def __init__(self, path: Path, name: str, stem: str, more: Sequence[Path] = ()) -> None:
        self.path, self.name, self.stem = path, name, stem
        self.pixels: list[np.ndarray] = []
        self.channels: tuple[str, ...] = ()
        self.pixel_size: tuple[float, float] | None = None
        self._error: UserError | None = None
        try:
            with decoding(path):
                self.stamp = stamp_of(path, *more)
            self.planes = open_planes(path, *more)
            self.channels = self.planes.channels
            self.pixel_size = self.planes.calibration.pixel_size
            if not self.planes.axes and not is_streamed(self.planes):
                self.pixels = list(self.planes)
        except UserError as error:
            self._error = error

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._error is not None:
            raise self._error
        yield from self.pixels


class FolderFiles(IterableDataset[ImageFile]):
    """This process's share of the files that are not done; threads read the next ones ahead.

    ``stems`` gives for each image, by its path in the folder, the name of its results without a
    suffix; ``joined`` files with its further channels.
    """

    def __init__(
        self,
        folder: Path,
        stems: Mapping[str, str],
        joined: Mapping[str, Sequence[str]],
        writer: "FolderWriter",
        trainer: Trainer,
    ) -> None:
        self.folder, self.stems, self.joined = folder, stems, joined
        self.writer, self.trainer = writer, trainer

    def __iter__(self) -> Iterator[ImageFile]:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        # The first process says what is left, so that each file is of one process alone.
        todo = self._todo() if rank == 0 else []
        share = self.trainer.strategy.broadcast(todo)[rank::world]
        names, waiting = iter(share), deque[Future[ImageFile]]()
        bar = progress(None, "predicting", len(share), disable=rank > 0)
        with bar, ThreadPoolExecutor(2) as threads:
            for _ in share:
                if self.writer.stop is not None:
                    break
                more = islice(names, _AHEAD - len(waiting))
                waiting.extend(threads.submit(self._open, name) for name in more)
                yield waiting.popleft().result()
                bar.update()

    def _open(self, name: str) -> ImageFile:
        return ImageFile(self.folder / name, name, self.stems[name], self._more(name))

    def _more(self, name: str) -> list[Path]:
        return [self.folder / other for other in self.joined.get(name, ())]

    def _todo(self) -> list[str]:
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(self._is_done, self.stems)
            done = progress(found, "comparing with what is done", len(self.stems))
            return [name for name, is_done in zip(self.stems, done, strict=True) if not is_done]

    def _is_done(self, name: str) -> bool:
        paths = self.folder / name, *self._more(name)
        try:
            return self.writer.manifest.is_done(name, self.stems[name], lambda: stamp_of(*paths))
        except (OSError, UserError):  # it is said when its turn comes
            return False


class FolderWriter(Callback):
    """Writes one file's results in a thread while the next one is predicted.

    Attributes:
        faults: Image ► why it was left out; at the end, of all processes.
        stop: Why nothing more can be written.
    """

    def __init__(
        self,
        manifest: Manifest,
        outputs: Outputs,
        classes: Sequence[str] = (),
        more: Sequence[str] = (),  # columns of images.csv
    ) -> None:
        self.manifest, self.outputs, self.classes, self.more = manifest, outputs, classes, more
        self.faults: dict[str, str] = {}
        self.stop: str | None = None
        self.thread, self._pending = ThreadPoolExecutor(1), Future[None]()
        self._pending.set_result(None)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: int
    ) -> None:
        self._pending.result()
        if self.stop is None:
            self._pending = self.thread.submit(self._write, batch, outputs, pl_module.predictor)
            if not batch.pixels:  # it is predicted now
                self._pending.result()

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._pending.result()
        if trainer.world_size > 1:
            shares: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, (self.faults, self.stop))
            self.faults = {k: v for faults, _ in shares for k, v in faults.items()}
            self.stop = next((stop for _, stop in shares if stop), None)

    def report(self, names: Sequence[str], left_out: Mapping[str, str]) -> int:
        """Write the tables of all that is done, whenever that was, and return the exit status.

        ``left_out`` joins the ``faults``.
        """
        done = dict.fromkeys(name for name in names if self.manifest.record(name) is not None)
        gone = "its results are gone; start the same command again"
        missing = (name for name in names if name not in done)
        faults = {name: self.faults.get(name, printable(f"{name}: {gone}")) for name in missing}
        faults |= left_out
        folder = self.outputs.folder
        objects = (*object_columns(self.classes), *self.manifest.more_columns(done))
        tables = {"objects": objects, "images": (*columns_of_images(self.classes), *self.more)}
        tables |= {"rle": RLE_COLUMNS} if self.outputs.rle else {}
        try:
            if self.stop is not None:
                raise UserError(self.stop)
            for table, columns in tables.items():
                rows = self.manifest.rows(done, table, columns)
                write_table(folder / f"{table}.csv", columns, rows)
            self.manifest.write(done, faults, complete=True)
        except UserError as error:
            far = f"{len(done)} of {len(names)} images are done, and the same command goes on there"
            raise UserError(f"{error}; {far}") from None
        print(f"masks     {folder / 'masks'} ({len(done)} images)")
        if self.classes:
            print(f"classes   {class_legend(self.classes)} in overlays; 1, 2, … in masks")
        print(f"tables    {folder / 'objects.csv'}, {folder / 'images.csv'}")
        about = self.manifest.rows(done, "images", ["image", "sized"]) if self.more else ()
        if line := unsized(about):
            print(line)
        for fault in faults.values():
            print(f"left out  {fault}", file=sys.stderr)
        return 1 if faults else 0

    def _write(self, file: ImageFile, found: Any, predictor: Predictor) -> None:
        try:
            self.manifest.forget(file.name)
            if isinstance(found, UserError):
                raise found
            known = (file.pixels[0], found[0]) if found else None
            writer = FileWriter(file.planes, self.outputs, file.name, file.stem, known)
            about = (file.name, file.stem, file.stamp)
            with self.manifest.recording(*about, writer.names.values()) as add:
                writer.write(predictor, add)
        except Unwritten as error:  # the next file would meet it as well
            self.stop = str(error)
        except UserError as error:
            named = str(error).startswith(printable(file.path))
            self.faults[file.name] = str(error) if named else printable(f"{file.path}: {error}")


def stamp_of(*paths: Path) -> str:
    """What an image in one or several files is known by."""
    return "|".join(map(sha256_of, paths))


def _images(folder: Path, output: Path) -> tuple[list[str], dict[str, str]]:
    """Every image below a folder, and the folder ► what is left out that a person meant."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; check --data.images")
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{output}: lies in the images' folder, where masks would be taken for images; use "
            "another --output"
        )
    listing = list_files(folder)
    images = listing.images()
    told = listing.tell(folder)
    if not images:
        kinds, told = ", ".join(IMAGE_SUFFIXES), told and f" ({told})"
        raise UserError(f"{folder}: holds no images ({kinds}){told}; check the path")
    if not listing.missed:
        say_once(told)
    return images, {str(folder): told} if listing.missed else {}


def _joint(folder: Path, images: list[str], preprocess: Preprocess) -> dict[str, tuple[str, ...]]:
    """Files of one channel that are channels of one image: the first ► the others.

    Only for a network that takes more channels than one such file has.
    """
    cases = channel_files(images) if isinstance(preprocess.channels, tuple) else {}
    if not cases or preprocess.channels in ((0,), ("0",)):
        return {}
    try:
        first = next(iter(open_planes(folder / images[0])))
    except UserError:  # it is said when its turn comes
        return {}
    if first.shape[2] > 1:
        return {}
    print(f"joined    {len(images)} files to {len(cases)} images: _0000, _0001, … are channels")
    return {files[0]: files[1:] for files in cases.values()}


def _stems(folder: Path, images: list[str], joined: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Relative path of each image ► the name of its results, without suffix."""
    others = {other for files in joined.values() for other in files}
    names = {}
    for name in (name for name in images if name not in others):
        bare = str(PurePosixPath(name).with_suffix(""))
        names[name] = printable(bare.removesuffix(NNUNET) if name in joined else bare)
    # Some file systems do not tell upper from lower case, or one way to write ä from another.
    taken = Counter(_folded(name) for pair in names.items() for name in pair)
    stems = {p: s if taken[_folded(s)] == 1 else printable(p) for p, s in names.items()}
    for stem, count in Counter(stems.values()).items():
        if count > 1:
            raise UserError(f"{folder / stem}: two files are called so once escaped; rename one")
    return stems


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
