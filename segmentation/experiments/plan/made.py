"""Looks at the data and at this machine, times steps, and puts the choices together."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from segmentation.config_files import configs_folder, read_parts, write_new
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import evenly
from segmentation.data.sources import SourceSplit, about_test
from segmentation.data.splits import RandomSplit
from segmentation.errors import UserError
from segmentation.evaluation.audit.sources import likely_sources, sources_csv
from segmentation.experiments.plan.budget import (
    START,
    Size,
    Speed,
    TimePlan,
    enough,
    likely,
    schedule,
    sizes,
)
from segmentation.experiments.plan.choices import Choice, choose_parts, choose_time
from segmentation.experiments.plan.facts import (
    DataFacts,
    Machine,
    data_facts,
    machine_facts,
)
from segmentation.experiments.plan.split import KEY, choose_by_sources, choose_split
from segmentation.experiments.plan.timing import bfloat16_is_fast, data_module, measure

DATA = "data.init_args."
BFLOAT16 = 0.85  # of the time of a step, at most, for what single precision is given up
# Settings of the data module that say how the data are read; all others are chosen.
READ = [
    "annotated",
    "classes",
    "files",
    "fold",
    "ignore",
    "images",
    "mask_type",
    "masks",
    "split",
    "truth",
]


@dataclass(frozen=True)
class Plan:
    """A config and what it rests on."""

    config: dict[str, Any]
    choices: list[Choice]
    facts: DataFacts
    machine: Machine
    size: Size
    speed: Speed
    schedule: TimePlan
    test: str  # what it tells, where that is known


def make_plan(
    kind: str,
    options: Sequence[str],
    budget: float,
    root: Path | None = None,
    pretrained: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
    machine: Machine | None = None,
    start: float = 0.0,
    beside: Path | None = None,
) -> Plan:
    """Look, measure, choose.

    Args:
        kind: Of data, as the files in ``configs/data`` are called.
        options: ``--data.…``, as typed.
        budget: Seconds.
        root: Folder of the data; by default as in the file of its kind.
        pretrained: Weights of an encoder: a file, or ``imagenet``.
        clock: With which steps are timed.
        machine: To plan for as if it were this one.
        start: Seconds that the imports took.
        beside: File that lists likely sources where the split is by these; without, it never is.

    Raises:
        UserError: The data cannot be read, an option is wrong or the budget is too small.
    """
    if pretrained not in (None, "imagenet") and not Path(pretrained).is_file():
        raise UserError(f"--pretrained {pretrained}: no such file; give one, or imagenet")
    begun = clock()
    data, chosen = chosen_data(kind, options, root)
    store, machine = data.raw, machine or machine_facts()
    filled = clock() - begun
    sources = data.sources
    free = kind == "folder" and "split" not in _typed(options) and data.fold is None
    if beside is not None and free and isinstance(data.splitter, RandomSplit):
        sources, chosen = _by_sources(data, chosen, beside)
    split = data.divided(store.entries)
    test = about_test(sources, split.train, split.test)
    facts = data_facts(store, split, getattr(data.source, "class_names", ()))

    def choices(size: Size, machine: Machine, steps: int = 0) -> list[Choice]:
        return [*chosen, *choose_parts(facts, machine, size, pretrained, steps)]

    def timed(size: Size, machine: Machine) -> Speed | None:
        config = joined(choices(size, machine))
        if pretrained is not None:  # a step takes as long without them
            config["model"]["init_args"]["net"]["init_args"]["encoder_weights"] = None
        speed = measure(config, clock=clock)
        return (
            None
            if speed is None
            else replace(speed, fill=filled + speed.fill, start=max(START, start))
        )

    every = sizes(facts, machine, pretrained is not None)
    size, speed = every[-1], timed(every[-1], machine)
    if speed is None:
        raise UserError(f"{machine.name}: too little free memory for the smallest network")
    for other in every[:-1]:
        # Measured only if it may do, for that takes seconds.
        if not _does(facts, other, likely(other, size, speed), budget):
            continue
        found = timed(other, machine)
        if found is not None and _does(facts, other, found, budget):
            size, speed = other, replace(found, fill=max(found.fill, speed.fill))
            break
    if machine.device == "cpu" and bfloat16_is_fast():
        halved = replace(machine, half=True)
        found = timed(size, halved)
        if found is not None and found.step < BFLOAT16 * speed.step and found.image < speed.image:
            machine, speed = halved, replace(found, fill=max(found.fill, speed.fill))
    time_plan = schedule(facts, size, speed, budget)
    every_choice = [
        *choices(size, machine, time_plan.total),
        *choose_time(facts, size, speed, time_plan, budget),
    ]
    about = (facts, machine, size, speed, time_plan, test)
    return Plan(joined(every_choice), every_choice, *about)


def _by_sources(
    data: SegmentationDataModule, chosen: Sequence[Choice], file: Path
) -> tuple[dict[str, str], list[Choice]]:
    """The likely source of each image; and the choices, by these where they are clear."""
    likely = likely_sources(data.raw, None)
    (random,) = (choice for choice in chosen if choice.key == KEY)
    split = choose_by_sources(random, data.raw.entries, likely, str(file))
    if "sources" in (values := split.value["init_args"]):
        write_new(file, sources_csv(likely))
        data.splitter = SourceSplit(**values)
    known = {name: one.name for one in likely for name in one.images}
    return known, [split if choice is random else choice for choice in chosen]


def _does(facts: DataFacts, size: Size, speed: Speed, budget: float) -> bool:
    """Whether the budget gives enough steps."""
    try:
        return schedule(facts, size, speed, budget).total >= enough(size)
    except UserError:
        return False


def chosen_data(
    kind: str, options: Sequence[str], root: Path | None
) -> tuple[SegmentationDataModule, list[Choice]]:
    """The data module, and the choices of how the data are read and divided."""
    typed = _typed(options)
    (shipped,) = read_parts(configs_folder() / "data" / f"{kind}.yaml")
    given = shipped["data"]["init_args"] | ({} if root is None else {"root": str(root)})
    path = shipped["data"]["class_path"]
    chosen = [
        Choice("run.name", f"{kind}-plan" if kind != "folder" else "plan", ""),
        Choice("data.class_path", path, ""),
        Choice(DATA + "root", given["root"], ""),
    ]
    if "split" in given and (kind != "folder" or "split" in typed):  # typed: perhaps numbers alone
        chosen.append(Choice(DATA + "split", given["split"], "split: as shipped for this data."))

    def built() -> tuple[SegmentationDataModule, dict[str, Any]]:
        keys = [c for c in chosen if not c.key.startswith("run")]
        return data_module(joined(keys), options)

    if kind == "folder":
        if not typed & {"mask_type", "classes"}:
            chosen.append(Choice("", "", ""))
            problems = list[UserError]()
            for name, about in _MASKS.items():
                chosen[-1] = Choice(DATA + "mask_type", name, f"mask_type: {about}.")
                try:
                    source = built()[0].source
                    records = source.index()
                    for i in evenly(len(records), 5):
                        source.read(records[i])
                    break
                except UserError as error:
                    problems.append(error)
            else:
                raise problems[0]
        if "split" not in typed:
            entries = built()[0].raw.entries
            stack = all("#" in entry.id for entry in entries)
            chosen.append(choose_split(len(entries), [entry.group for entry in entries], stack))
    data, values = built()
    chosen = [c for c in chosen if c.key.removeprefix(DATA) not in typed]
    chosen += [Choice(DATA + name, values[name], f"{name}: as you typed.") for name in typed]
    return data, chosen


_MASKS = {
    "binary": "masks hold 0 and one other value; touching objects are one",
    "labels": "masks hold more than two values: each object has its own",
    "objects": "each object has a file of its own",
}


def _typed(options: Sequence[str]) -> set[str]:
    """The names of the settings of the data module that were typed."""
    names = {word.partition("=")[0] for word in options if word.startswith("--")}
    for name in sorted(names):
        if name.removeprefix("--data.").partition(".")[0] not in READ or name == "--data":
            raise UserError(
                f"{name}: of the data's settings init takes {', '.join(READ)}, and chooses the "
                "others; change the file that it writes, or type it after fit"
            )
    return {name.removeprefix("--data.").partition(".")[0] for name in names}


def flow(value: Any) -> str:
    """A value as YAML, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def joined(choices: Sequence[Choice]) -> dict[str, Any]:
    """The config of choices, its groups in the order in which people read them."""
    config: dict[str, Any] = {name: {} for name in ("run", "trainer", "checkpoint", "data")}
    for key, value, _ in choices:
        *above, last = key.split(".")
        part = config
        for name in above:
            part = part.setdefault(name, {})
        part[last] = value
    return {name: part for name, part in config.items() if part}
