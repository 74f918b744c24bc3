"""The images that an export is proved and calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Sample, thinned
from segmentation.errors import UserError, first_of, gist_of
from segmentation.io.listing import list_files
from segmentation.io.stacks import open_planes
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
) -> Images:
    """The images of a folder, or the validation images of a run, and training images.

    Args:
        task: As loaded from ``ckpt_path``.
        ckpt_path: In ``RUN/checkpoints``, or elsewhere.
        config: Of the run.
        folder: Of images, instead of the validation images.
        most: So many at most, evenly spaced.
        calibrate: Whether training images are needed.

    Raises:
        UserError: There are none.
    """
    own = ckpt_path.resolve().parent.parent / "config.yaml"
    config = config or (own if own.is_file() else None)
    if folder is None and config is None:
        raise UserError(
            f"{ckpt_path}: lies in no run's folder, so that its validation images are not known; "
            "give images to prove the export on by --data.images, or the run's --config"
        )
    shown = [] if folder is None else _folder(folder, most)  # a wrong path is said at once
    data = _data_of(config, task) if config and (calibrate or folder is None) else None
    if folder is None:
        assert data is not None
        samples = _part(data, "val", most)
        where = f"{len(samples)} validation images of {data.source.name}"
    else:
        samples, where = shown, f"{len(shown)} images of {folder}"
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
