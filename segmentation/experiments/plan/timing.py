"""How long a step and a validation image take here: a few of them, by the training itself."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import yaml
from lightning import Callback, Trainer

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.errors import UserError
from segmentation.experiments.plan.budget import Speed
from segmentation.task import SegmentationTask
from segmentation.terminal import lightning_quiet
from segmentation.training.messages import silence_noise
from segmentation.training.settings import Parser, ParserError, link_task_to_data, parser_gist
from segmentation.training.trial import unbuilt

WARM, MOST = 2, 40  # steps that do not count, and all of them at most
SECONDS, IMAGES = 4.0, 4  # of the steps; to validate


def data_module(
    config: dict[str, Any], options: Sequence[str] = ()
) -> tuple[SegmentationDataModule, dict[str, Any]]:
    """The data module of a config and of what was typed, and all its settings as plain values.

    Raises:
        UserError: An option is wrong, or its class cannot be built of them.
    """
    parser = Parser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(SegmentationDataModule, "data", skip={"preprocess", "target"})
    try:
        values = parser.parse_args(["--config", yaml.safe_dump(config), *options])
        plain = yaml.safe_load(parser.dump(values, skip_none=False))["data"]["init_args"]
        return parser.instantiate_classes(values).data, plain
    except ParserError as error:
        raise UserError(parser_gist(str(error)).replace("fit --help-all", "init --help")) from None


def build(config: dict[str, Any]) -> tuple[SegmentationTask, SegmentationDataModule]:
    """Task and data of a config, joined as ``fit`` joins them."""
    parser = Parser()
    parser.add_subclass_arguments(SegmentationTask, "model")
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    link_task_to_data(parser)
    try:
        values = parser.parse_object({key: config[key] for key in ("model", "data")})
        built = parser.instantiate_classes(values)
    except ParserError as error:
        raise UserError(parser_gist(str(error))) from None
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise unbuilt(error) from error
    return built.model, built.data


def measure(config: dict[str, Any], clock: Callable[[], float] = time.perf_counter) -> Speed | None:
    """Train a config for a few steps, and validate a few images.

    Args:
        config: As ``fit`` takes it.
        clock: ``time.process_time`` where others compute on the same cores.

    Returns:
        ``None`` where the GPU has too little memory for it.
    """
    silence_noise()
    task, data = build(config)
    data.sampling = replace(data.sampling, length=MOST * data.batch_size)
    watch = _Watch(clock)
    begun = clock()
    try:
        with lightning_quiet():
            Trainer(
                **{k: v for k, v in config["trainer"].items() if k != "max_epochs"},
                max_epochs=1,
                limit_val_batches=IMAGES,
                num_sanity_val_steps=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=[watch],
            ).fit(task, datamodule=data)
    except torch.cuda.OutOfMemoryError:
        return None
    steps, images = watch.steps, watch.images
    warm = min(WARM, len(steps) - 2)
    step = (steps[-1] - steps[warm]) / (len(steps) - 1 - warm)
    # The first images may be larger than most: what counts is the time of a pixel.
    pixels = {entry.id: math.prod(entry.image[1][:2]) for entry in data.raw.entries}
    sizes = [pixels[name] for name in data.split.val]
    share = np.mean(sizes) / np.mean(sizes[: len(images) - 1])
    image = share * (images[-1] - images[0]) / (len(images) - 1)
    return Speed(step, float(image), steps[0] - begun)


def bfloat16_is_fast() -> bool:
    """Whether this processor convolves in bfloat16 itself: others emulate it, ten times slower."""
    images, weights = torch.rand(4, 16, 64, 64), torch.rand(16, 16, 3, 3)

    def taken(dtype: torch.dtype) -> float:
        image, weight = images.to(dtype), weights.to(dtype)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            torch.conv2d(image, weight, padding=1)
            times.append(time.perf_counter() - begun)
        return min(times)

    with torch.inference_mode():
        return taken(torch.bfloat16) < taken(torch.float32)


class _Watch(Callback):
    """When each step and each validation image was done."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.steps, self.images = list[float](), list[float]()

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.steps:
            self.steps.append(self._now())

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(self._now())
        if len(self.steps) > WARM + 3 and self.steps[-1] - self.steps[0] > SECONDS:
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        self.images.append(self._now())

    def on_validation_batch_end(self, *_: Any) -> None:
        self.images.append(self._now())

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock()
