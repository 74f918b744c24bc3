"""What fits a budget: sizes of network and windows, and the epochs and steps of a training."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from segmentation.errors import UserError
from segmentation.experiments.plan.facts import DataFacts, Machine

STEPS = 1500  # a training that is worth its budget has as many
LEAST = 150  # fewer learn nothing
MARGIN = 0.08  # of the budget, kept for what takes longer than measured
START, EPOCH = 9.0, 0.3  # seconds: at least, to start and again to write pages; of an epoch's files
VALIDATION = 0.12  # of the time of the steps, at most
LARGE = 64  # pixels: objects of a greater diameter are seen at a smaller scale


class Size(NamedTuple):
    """What decides how long a step takes: of the network, of its training windows, of a batch."""

    width: int
    crop: int
    batch: int


@dataclass(frozen=True)
class Speed:
    """Seconds, as measured here.

    Attributes:
        step: Of a training step.
        image: Of an image of the validation.
        fill: Of filling the cache and of what else comes before the first step.
        start: Of the imports; the pages at the end take about as long.
    """

    step: float
    image: float
    fill: float
    start: float = START


@dataclass(frozen=True)
class TimePlan:
    """A training that fits its budget.

    Attributes:
        epochs: How many.
        steps: Of an epoch.
        whole: Whether an epoch is all training images, once each.
        seconds: What it is expected to take, the margin left aside.
    """

    epochs: int
    steps: int
    whole: bool
    seconds: float

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps


def sizes(facts: DataFacts, machine: Machine, pretrained: bool = False) -> list[Size]:
    """What to choose from, the best first: the first with enough steps is taken, else the last."""
    diameter = facts.diameter * scale(facts)
    side = min(facts.smallest) * scale(facts)
    best, small = (_side(share * diameter, side) for share in (14, 7))
    widths, batch = ([64, 32, 16], 8) if machine.device == "cuda" else ([32, 16, 8], 4)
    if pretrained:
        widths = [16]
    crops = [best] if machine.device == "cuda" else [best, small]
    found = [Size(width, crop, batch) for width in widths[:-1] for crop in crops]
    return list(dict.fromkeys([*found, Size(widths[-1], small, batch)]))


def _side(wanted: float, side: float) -> int:
    """A training window's: a multiple of 32 from 128 to 384, less in smaller images."""
    most = max(32, int(side) // 32 * 32)
    return min(384, max(128, math.ceil(wanted / 32) * 32), most)


def scale(facts: DataFacts) -> float:
    """By which the network sees images smaller: ½ or ¼ where objects are large."""
    return 1.0 if facts.diameter < LARGE else 0.5 if facts.diameter < 3 * LARGE else 0.25


def enough(size: Size) -> int:
    """Steps that a network of this size needs to be worth more than a smaller one."""
    return STEPS * max(1, size.width // 16)


def likely(size: Size, known: Size, speed: Speed) -> Speed:
    """The speed of one size, from that of another: rather too fast, for it is measured then."""
    work = [s.width**1.2 * s.crop**1.8 * s.batch for s in (size, known)]
    return replace(speed, step=speed.step * work[0] / work[1])


def schedule(facts: DataFacts, size: Size, speed: Speed, budget: float) -> TimePlan:
    """Epochs and steps that fill a budget.

    Args:
        facts: Of the data.
        size: Of network, windows and batch.
        speed: As measured with these.
        budget: Seconds of the whole command.

    Raises:
        UserError: It is too small; the line says the least that makes sense.
    """
    validation = facts.val * speed.image + EPOCH
    # Testing takes longer than validating: outlines are compared, too, and Otsu's threshold.
    around = 2 * speed.start + speed.fill + 2 * facts.test * speed.image + 2 * speed.image
    usable = budget * (1 - MARGIN) - around
    if usable < LEAST * speed.step + 4 * validation:
        least = (around + LEAST * speed.step + 4 * validation) / (1 - MARGIN)
        raise UserError(
            f"--budget {spelled(budget)}: too small for this data on this machine: {LEAST} steps "
            f"of {speed.step:.2g} s, the validation and the test take {spelled(least, up=True)}; "
            "give at least that"
        )
    natural = max(1, facts.train // size.batch)
    epochs = int(usable / (natural * speed.step + validation))
    whole = 10 <= epochs <= 100 and validation <= 1.5 * VALIDATION * natural * speed.step
    steps = natural
    if not whole:
        epochs = max(4, min(60, int(usable * VALIDATION / validation)))
        steps = max(1, int((usable / epochs - validation) / speed.step))
    return TimePlan(epochs, steps, whole, around + epochs * (steps * speed.step + validation))


def spelled(seconds: float, up: bool = False) -> str:
    """A time as it is typed.

    >>> spelled(90), spelled(1800), spelled(9000), spelled(61, up=True)
    ('90s', '30m', '2h30m', '2m')
    """
    if up:
        seconds = math.ceil(seconds / 60) * 60 if seconds > 60 else math.ceil(seconds / 10) * 10
    if seconds % 60:
        return f"{seconds:.0f}s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m")) if n)
