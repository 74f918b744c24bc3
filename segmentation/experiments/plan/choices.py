"""What to train, from what was seen: pure functions, each choice with its reason.

Some rest on what was measured (``docs/results/choices.md``), others are judgement.
"""

import math
from typing import Any, NamedTuple

from segmentation.experiments.plan.budget import STEPS, Size, Speed, TimePlan, enough, scale
from segmentation.experiments.plan.facts import DataFacts, Machine
from segmentation.experiments.plan.one_kind import RIGHT, OneKind

WIDE = 16  # of a network that learns flows
CROWDED = 0.5  # share of objects that touch, from which the gaps between them are learned


class Choice(NamedTuple):
    """A key of the config, its value, and why in plain sentences."""

    key: str
    value: Any
    reason: str


def choose_parts(
    facts: DataFacts,
    machine: Machine,
    size: Size,
    pretrained: str | None = None,
    steps: int = STEPS,
) -> list[Choice]:
    """All that does not depend on the time, in the order of the file."""
    return [
        *_trainer(machine),
        Choice("model.class_path", "segmentation.task.SegmentationTask", ""),
        *_windows(facts, machine, size),
        *_network(facts, size, pretrained, steps),
        *_target(facts, flows(facts, size, pretrained)),
        *_seen(facts, pretrained),
        *_optimizer(size, pretrained),
    ]


def choose_time(
    facts: DataFacts, size: Size, speed: Speed, plan: TimePlan, budget: float
) -> list[Choice]:
    """Epochs, and how many images an epoch has."""
    found = [
        Choice(
            "trainer.max_epochs",
            plan.epochs,
            f"max_epochs {plan.epochs}: a step takes {speed.step:.2g} s here, the validation of "
            f"{facts.val} images {facts.val * speed.image:.2g} s; {plan.epochs} epochs of "
            f"{plan.steps} steps with start, cache and test take {plan.seconds / 60:.1f} of the "
            f"{budget / 60:g} minutes asked for. The learning rate falls to 0 over all of them.",
        )
    ]
    if not plan.whole:
        found.append(
            Choice(
                "data.init_args.sampling.length",
                plan.steps * size.batch,
                f"length: an epoch is {plan.steps} batches of {size.batch} instead of the "
                f"{facts.train} training images once each, so that validation takes about a tenth "
                f"of the time and there are {plan.epochs} epochs to choose from.",
            )
        )
    return found


def _windows(facts: DataFacts, machine: Machine, size: Size) -> list[Choice]:
    """Crop, magnification, augmentation, balance, batch."""
    seen = f"objects have a median diameter of {facts.diameter:.0f} pixels"
    if scale(facts) != 1:
        seen += f" ({facts.diameter * scale(facts):.0f} as the network sees them)"
    smallest = "×".join(map(str, facts.smallest))
    found = [
        Choice(
            "data.init_args.crop",
            size.crop,
            f"crop {size.crop}: {seen}, the smallest image is {smallest}.",
        ),
        Choice(
            "data.init_args.zoom",
            [0.8, 1.25] if facts.classes else [0.7, 1.4],
            "zoom: windows are magnified at random, "
            + ("little, for size may tell the class." if facts.classes else "for other sizes."),
        ),
    ]
    recipe, why = "nuclei", f"the background is {facts.background}; noise, blur, little brightness"
    if shown_alike(facts):
        why = "the network sees bright objects on dark, in gray: noise, blur, little brightness"
    elif facts.colour:
        why = "the images have colours: hue and saturation vary, as stains do"
    elif facts.background == "middle":
        recipe, why = "cells", "the background is of middle gray, as in DIC and phase contrast"
    found.append(Choice("data.init_args.augmentation", recipe, f"augmentation: {why}."))
    if len(facts.kinds) > 1:
        found.append(
            Choice(
                "data.init_args.sampling.balance",
                0.25,
                f"balance: {len(facts.kinds)} kinds of images ({', '.join(facts.kinds)}); the rare "
                "ones and large images are drawn more often.",
            )
        )
    if facts.empty > 0.3:
        found.append(
            Choice(
                "data.init_args.sampling.balance_empty",
                True,
                f"balance_empty: {facts.empty:.0%} of the images hold no object; images with and "
                "without are drawn equally often.",
            )
        )
    why = "small batches learn more from the same images on a processor"
    if machine.device == "cuda":
        why = f"{machine.name} has {machine.memory:.0f} GiB"
    found.append(Choice("data.init_args.batch_size", size.batch, f"batch {size.batch}: {why}."))
    if machine.device == "cpu" and machine.cores == 1:
        reason = "num_workers 0: there is one core, which a loading process would share."
        found.append(Choice("data.init_args.num_workers", 0, reason))
    return found


def _network(facts: DataFacts, size: Size, pretrained: str | None, steps: int) -> list[Choice]:
    key = "model.init_args.net"
    classes = _outputs(facts, flows(facts, size, pretrained))
    if pretrained is None:
        net = {"in_channels": _inputs(facts)[1], "classes": classes, "width": size.width}
        chosen = {"class_path": "segmentation.models.UNet", "init_args": {**net, "depth": 5}}
        need = enough(size)
        reason = f"net: the budget gives {steps} steps, and a U-Net of width {size.width} needs "
        reason += f"about {need}"
        reason += "." if steps >= need else "; it is the smallest. A larger budget is worth it."
        return [Choice(key, chosen, reason)]
    chosen = {
        "class_path": "segmentation.models.EncoderUNet",
        "init_args": {
            "encoder_name": "tu-tf_efficientnet_lite2",
            "encoder_weights": pretrained,
            "in_channels": 1 if shown_alike(facts) else 3,
            "classes": classes,
            "decoder_channels": [128, 64, 48, 32, 16],
            "detail": 16,
        },
    }
    return [Choice(key, chosen, "net: a pretrained encoder, as you asked.")]


def _outputs(facts: DataFacts, flowing: bool) -> int:
    return len(facts.classes) + 1 if facts.classes else 3 if flowing else 1


def flows(facts: DataFacts, size: Size, pretrained: str | None) -> bool:
    """Whether flows to the centres of objects are learned.

    They tell touching objects apart best; a narrow network is better at foreground alone, and near
    regions that nobody annotated centres are not known.
    """
    wide = pretrained is not None or size.width >= WIDE
    return wide and facts.touching > 0 and not facts.unannotated and not facts.classes


def _target(facts: DataFacts, flowing: bool) -> list[Choice]:
    """The one place that says what is learned, and which score chooses the epoch."""
    prefix, targets = "model.init_args.", "segmentation.targets."
    values: dict[str, Any] = {}
    about = ""
    if facts.area >= 2:
        values["min_size"] = int(facts.area * scale(facts) ** 2 / 2)
        about = f" 99 of 100 objects have {facts.area} pixels or more: below half of that they are "
        about += "dropped."
    if facts.classes:
        values = {"names": [*facts.classes], **values}
        chosen = {"class_path": targets + "Classes", "init_args": values}
        reason = f"target: the class of each pixel, of {', '.join(facts.classes)}.{about}"
        return [
            Choice(prefix + "loss", {"class_path": "segmentation.losses.CrossEntropyDice"}, ""),
            Choice(prefix + "target", chosen, reason),
            Choice("checkpoint.monitor", "val/class_pq", "monitor: objects with their classes."),
        ]
    found = []
    monitor = "monitor: objects touch; the epoch that tells them apart best is kept."
    if flowing:
        loss = {"class_path": "segmentation.losses.FlowLoss", "init_args": {"per_image": True}}
        reason = f"target: flows to the centres of objects, for {facts.touching:.0%} of them touch"
        reason += f" another: what flows to one place is an object.{about}"
        return [
            Choice(prefix + "loss", loss, "loss: cross-entropy and Dice of foreground, and flows."),
            Choice(
                prefix + "target", {"class_path": targets + "Flow", "init_args": values}, reason
            ),
            Choice("checkpoint.monitor", "val/image_ap", monitor),
        ]
    reason = f"target: object or background. {facts.touching:.0%} of the objects touch another"
    if facts.touching > 0:
        values["seed_distance"] = max(2, round(facts.diameter * scale(facts) / 3))
        reason += (
            f": what comes out as one is cut at its waists, by seeds {values['seed_distance']}"
        )
        reason += " pixels apart"
    if facts.touching >= CROWDED and not facts.unannotated:
        values["gap"] = 1
        reason += ", and a pixel of each is learned as background"
        weight = {
            "class_path": "segmentation.targets.border_weights.BorderWeight",
            "init_args": {"w0": 10.0, "sigma": 5.0, "gap": 1},
        }
        why = f"weight: {facts.touching:.0%} of the objects touch; gaps between them count more."
        found.append(Choice("data.init_args.weight", weight, why))
    if facts.unannotated:
        about += f" {facts.unannotated:.0%} of the pixels are not annotated and do not count."
    loss = {"class_path": "segmentation.losses.BCEDice", "init_args": {"per_image": True}}
    chosen = {"class_path": targets + "Foreground", "init_args": values}
    found += [
        Choice(prefix + "loss", loss, "loss: cross-entropy, and Dice of each image."),
        Choice(prefix + "target", chosen, f"{reason}.{about}"),
    ]
    if facts.touching > 0:
        found.append(Choice("checkpoint.monitor", "val/image_ap", monitor))
    return found


def _inputs(facts: DataFacts) -> tuple[Any, int, str]:
    """``preprocess.channels``, how many these are, and why."""
    if facts.channels[-1] not in (1, 3):
        count = facts.channels[0]
        return [*range(count)], count, f"channels: all {count} that the images have"
    one = facts.one_kind
    if one is not None and shown_alike(facts):
        why = f"channels: of the images that were looked at, {one.dark} show bright "
        why += f"objects on dark, {one.bright} dark ones on bright, and {one.stained} are stained. "
        why += "All are shown as gray, bright on dark: in at least "
        why += f"{one.right:.0%} of either kind the objects are the bright part then"
        return "bright_on_dark", 1, why
    if facts.colour:
        why = "channels: the images have colours"
        if one is not None and not one.dark and one.right >= RIGHT and not facts.classes:
            why += (
                ". All are bright fields, and their objects the darker or bluer part: for other "
                "stains than these try bright_on_dark, with in_channels 1 of the network"
            )
        return "rgb", 3, why
    if facts.channels == (1,):
        return "gray", 1, "channels: the images have one"
    return "gray", 1, "channels: red, green and blue are equal in all images that were looked at"


def shown_alike(facts: DataFacts) -> bool:
    """Whether all images are shown as bright objects on dark: a mixture, without classes."""
    return facts.one_kind is not None and facts.one_kind.mixed and not facts.classes


def _seen(facts: DataFacts, pretrained: str | None) -> list[Choice]:
    """How images are prepared."""
    prefix = "model.init_args.preprocess."
    channels, _, why = _inputs(facts)
    of: DataFacts | OneKind = facts
    alike = shown_alike(facts)
    if alike:
        of = facts.one_kind or facts
    elif pretrained is not None:
        channels, why = "rgb", "channels: three, as the encoder was trained"
    mean, std = (0.5, 0.5) if pretrained is not None else (of.mean, max(0.05, of.std))
    found = [
        Choice(prefix + "channels", channels, f"{why}."),
        Choice(
            prefix + "intensity",
            "percentile",
            f"intensity: the greatest value has {facts.bits} bits; each image is stretched between "
            "its percentiles, so that dim and bright ones look alike."
            + ("" if alike else f" The background is {facts.background}."),
        ),
        Choice(prefix + "mean", [mean], "mean and std: of the stretched training images, so that "
               "the network sees mean 0 and deviation 1." if pretrained is None else
               "mean and std: as the encoder was trained."),
        Choice(prefix + "std", [std], ""),
    ]  # fmt: skip
    if (factor := scale(facts)) != 1:
        why = f"magnification: objects of {facts.diameter:.0f} pixels are seen at {factor:g} of "
        why += "their size, so that one and its neighbours fit what the network sees."
        found.append(Choice(prefix + "magnification", factor, why))
    return found


def _optimizer(size: Size, pretrained: str | None) -> list[Choice]:
    rate = round(1.5e-3 * math.sqrt(size.batch / 4) * math.sqrt(16 / size.width), 5)
    rate = 2e-3 if pretrained is not None else rate
    adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate, "weight_decay": 0.01}}
    cosine = {"class_path": "segmentation.schedules.WarmupCosine", "init_args": {"warmup": 0.1}}
    reason = "lr: higher for a narrower network and a larger batch."
    reason = reason if pretrained is None else "lr: as the shipped config of this encoder."
    prefix = "model.init_args."
    return [
        Choice(prefix + "optimizer", adam, reason),
        Choice(prefix + "lr_scheduler", cosine, "lr_scheduler: ends when the epochs end."),
    ]


def _trainer(machine: Machine) -> list[Choice]:
    """Device and precision."""
    cpu = machine.device == "cpu"
    where = f"{machine.cores} core(s), no GPU" if cpu else machine.name
    precision, why = "32-true", "half precision gains nothing here"
    if machine.half:
        precision = "bf16-mixed"
        why = "bfloat16 " + ("is faster here, as measured" if cpu else "halves time and memory")
    return [
        Choice("trainer.accelerator", "auto", ""),
        Choice("trainer.devices", 1, f"devices: {where}, {machine.memory:.0f} GiB of memory."),
        Choice("trainer.precision", precision, f"precision: {why}."),
        Choice("trainer.gradient_clip_val", 1.0, ""),
    ]
