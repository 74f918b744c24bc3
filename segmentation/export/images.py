"""The images that an export is proved and calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Sample, thinned
from segmentation.datasets.folder import FolderDataset
from segmentation.errors import UserError, first_of, gist_of
from segmentation.io.listing import list_files
from segmentation.io.stacks import open_planes
from segmentation.io.truth import Masks
from segmentation.task import SegmentationTask
from segmentation.trust import renamed

_CALIBRATION = 64  # images


@dataclass(frozen=True)
class Images:
    """What an export is proved on.

    Attributes:
        samples: The images, with labels where they are known.
        where: What they are, in words.
        calibration: Training images, for int8.
        calibrated_on: What those are, in words.
    """

    samples: Sequence[Sample]
    where: str
    calibration: Sequence[Sample] = ()
    calibrated_on: str = ""


def find(
    task: SegmentationTask,
    ckpt_path: Path,
    config: Path | None,
    folder: Path | None,
    most: int,
    calibrate: bool,
    masks: Path | None = None,
    mask_type: Masks | None = None,
) -> Images:
    """The images of a folder, or the validation images of a run, and training images.

    Args:
        task: As loaded from ``ckpt_path``.
        ckpt_path: In ``RUN/checkpoints``, or elsewhere.
        config: Of the run.
        folder: Of images, instead of the validation images.
        most: So many at most, evenly spaced.
        calibrate: Whether training images are needed.
        masks: Folder of the masks of the images in ``folder``.
        mask_type: What they hold; objects have a value each where any mask has several.

    Raises:
        UserError: There are none, or a mask is missing.
    """
    if folder is None and (masks or mask_type):
        raise UserError("--data.masks, --data.mask_type: are of the images of --data.images")
    own = ckpt_path.resolve().parent.parent / "config.yaml"
    config = config or (own if own.is_file() else None)
    if folder is None and config is None:
        raise UserError(
            f"{ckpt_path}: lies in no run's folder, so that its validation images are not known; "
            "give images to prove the export on by --data.images, or the run's --config"
        )
    shown: Sequence[Sample] = []
    if folder is not None:  # a wrong path is said at once
        names = task.target.class_names
        shown = _labelled(folder, masks, mask_type, names, most) if masks else _folder(folder, most)
    data = _data_of(config, task) if config and (calibrate or folder is None) else None
    if folder is None:
        assert data is not None
        samples: Sequence[Sample] = _part(data, "val", most)
        where = f"{len(samples)} validation images of {data.source.name}"
    else:
        samples, where = shown, f"{len(shown)} images of {folder}"
        where += f" with the masks of {masks}" if masks else ""
    if not samples:
        raise UserError(f"{config or folder}: there are no images to prove the export on")
    calibration: Sequence[Sample] = ()
    if calibrate:
        calibration = samples if data is None else _part(data, "train", _CALIBRATION)
    on = where if data is None else f"{len(calibration)} training images"
    return Images(samples, where, calibration, on if calibrate else "")


def _data_of(config: Path, task: SegmentationTask) -> SegmentationDataModule:
    try:
        whole = renamed(yaml.safe_load(config.read_text(encoding="utf-8")))
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
        parsed = parser.parse_object({"data": whole["data"]})
        data: SegmentationDataModule = parser.instantiate_classes(parsed).data
    except OSError as error:
        raise UserError(f"{config}: cannot be read ({error.strerror}); check --config") from None
    except Exception as error:  # of YAML, the parser, and whatever a class raises
        what = gist_of(first_of(error), 200)
        raise UserError(
            f"{config}: its data cannot be read here ({what}); give images by --data.images"
        ) from error
    data.preprocess, data.target = task.preprocess, task.target
    data.num_workers = 0
    data.setup("validate")
    return data


def _part(data: Any, name: str, most: int) -> list[Sample]:
    places = data.parts[name].places
    return [data.raw[place] for place in thinned(places, most)]


def _labelled(
    folder: Path, masks: Path, kind: Masks | None, names: Sequence[str], most: int
) -> list[Sample]:
    """Images with masks, as ``fit`` reads them, and told apart as ``evaluate`` does."""
    place = str(masks.resolve())

    def read(kind: Masks) -> list[Sample]:
        source = FolderDataset(folder, ".", place, kind, names if kind == "classes" else ())
        return [source.read(record) for record in thinned(source.index(), most)]

    samples = read(kind or "labels")
    facts = {Path(one.id): one.facts for one in samples if one.facts is not None}
    if kind is None and facts and all(one.values <= 1 for one in facts.values()):
        return read("binary")
    return samples


def _folder(folder: Path, most: int) -> list[Sample]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; check --data.images")
    names = list_files(folder).images()
    samples = []
    for name in thinned(names, most):
        planes = open_planes(folder / name)
        sample = Sample(name, next(iter(planes)), None, channels=planes.channels)
        samples.append(replace(sample, pixel_size=planes.calibration.pixel_size))
    return samples
