"""A plan as a file with comments, and as a few lines for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from segmentation.experiments.plan.budget import spelled
from segmentation.experiments.plan.made import Plan, flow

WIDTH = 100


def as_yaml(plan: Plan, head: str) -> str:
    """The config, each choice below the reason for it."""
    reasons = {choice.key: choice.reason for choice in plan.choices}
    lines = [*(f"# {line}" for line in head.splitlines()), *_lines(plan.config, reasons)]
    return "\n".join(lines) + "\n"


def _lines(part: Mapping[str, Any], reasons: Mapping[str, str], above: str = "") -> Iterator[str]:
    for name, value in part.items():
        key, indent = f"{above}{name}", "  " * above.count(".")
        if reason := reasons.get(key):
            about = f"{indent}# "
            yield from textwrap.wrap(reason, WIDTH, initial_indent=about, subsequent_indent=about)
        inner = isinstance(value, dict) and value and (key not in reasons or "class_path" in value)
        if inner:
            yield f"{indent}{name}:"
            yield from _lines(value, reasons, f"{key}.")
        else:
            yield f"{indent}{name}: {flow(value)}"


def plan_lines(plan: Plan) -> str:
    """What was seen, what was chosen, how long it takes."""
    facts, machine, size, times = plan.facts, plan.machine, plan.size, plan.schedule
    small, large = ("×".join(map(str, s)) for s in (facts.smallest, facts.largest))
    net = plan.config["model"]["init_args"]["net"]["init_args"]
    width = f" of width {net['width']}" if "width" in net else ""
    rows = {
        "images": f"{facts.train} to train, {facts.val} to validate, {facts.test} to test; "
        + (small if facts.sizes == 1 else f"{small} to {large}")
        + f", {' or '.join(map(str, facts.channels))} channel(s), {facts.bits} bits, "
        f"{facts.background} background",
        "objects": f"{facts.objects:.0f} an image, median diameter {facts.diameter:.0f} pixels, "
        f"{facts.touching:.0%} touch",
        "test": plan.test,
        "machine": f"{machine.cores} core(s), {machine.name}, {machine.memory:.0f} GiB",
        "network": f"{_name(plan, 'net')}{width}, {_name(plan, 'target')}, windows "
        f"of {size.crop}×{size.crop}, batches of {size.batch}",
        "time": f"{times.epochs} epochs of {times.steps} steps of {plan.speed.step:.2g} s, about "
        f"{spelled(times.seconds, up=True)} in all",
    }
    return "\n".join(f"{name:9}{text}" for name, text in rows.items() if text)


def _name(plan: Plan, part: str) -> str:
    path: str = plan.config["model"]["init_args"][part]["class_path"]
    return path.rpartition(".")[2]
