"""The parser of all settings, and what is wrong with one, as a line with its key and value."""

import ast
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

import torch
import yaml
from jsonargparse import get_loader, set_loader
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser

from segmentation.data.cache import usable_cores
from segmentation.errors import UserError
from segmentation.evaluation.pictures import Colours
from segmentation.keys import dotted
from segmentation.training.messages import one_line, shortened

# jsonargparse hands a null on to the parser of a nested argument as Python's word for it.
_load_yaml = get_loader("yaml")
set_loader("yaml", lambda t: None if t == "None" else _load_yaml(t), (yaml.YAMLError,))
# Two kinds of defaults that Lightning's callbacks have, and which belong in a run's config.
register_type(torch.device)
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, e: dumper.represent_data(e.value))

# What nothing else refuses, or nobody names: least and greatest value.
_RANGES = {
    "seed_everything": (0, 2**32 - 1),
    "run.save_every": (0, math.inf),
    "trainer.accumulate_grad_batches": (1, math.inf),
    "trainer.check_val_every_n_epoch": (1, math.inf),
    "trainer.gradient_clip_val": (0, math.inf),
    "trainer.log_every_n_steps": (0, math.inf),
    "trainer.num_sanity_val_steps": (-1, math.inf),
    "trainer.reload_dataloaders_every_n_epochs": (0, math.inf),
    "trainer.val_check_interval": (math.ulp(0), math.inf),
    "model.schedule.frequency": (1, math.inf),
}
_GROUPS = ("model.preprocess", "model.schedule", "data.sampling", "data.files", "trainer", "run")
# What the parser expects, as a pattern ► as one says it.
_KINDS = {
    r"<class 'int'>": "a whole number",
    r"<class 'float'>": "a number",
    r"<class 'bool'>": "true or false",
    r"<class 'str'>": "text",
    r"a tuple with (\d+) elements": r"a list of \1",
    r"<class '(?:tuple|list|[\w.]*Iterable)'>": "a list",
    r"typing\.Literal\[(.*?)\](?= |\.|$)": r"one of \1",
    r"'[\w.]+' to be (?:a subclass of|a function that returns) (?:<class ')?([\w. |]+?)'?>?\.\.": (
        r"a class of the kind \1"
    ),
}


@dataclass(frozen=True)
class Run:
    """Where a run is kept and tracked.

    Attributes:
        root: Folder of all runs.
        name: Of the experiment; each run gets a folder of its own in ``root/name``.
        wandb: ``auto`` is online with an account (WANDB_API_KEY or a login), otherwise offline,
            to be uploaded later with ``wandb sync``; ``off`` keeps the CSV log alone.
        project: Of W&B.
        tags: Of the run in W&B, beside the names of its network, target and data.
        artifact: Give W&B and MLflow the best checkpoint, too.
        overlays: What the colours of pictures tell: ``objects`` (found, missed, false, merged,
            split) or ``pixels`` (right, missed, too much).
        weights: Start from the weights of this checkpoint, with a new optimizer.
        ensemble: In ``test``: score the mean of the probabilities of ``--ckpt_path`` and these
            checkpoints. Members trained on test images are refused, those of other folds too.
        resume: ``fit`` goes on with the newest unfinished run of this name, config and, under W&B's
            agent, id that no process works on, from the very batch; it starts anew where there is
            none. For jobs that are requeued: the same command every time.
        save_every: Minutes between checkpoints to resume from; SIGTERM and SIGUSR1 leave one too.
        tune: ``fit`` ends by choosing the decoding of the best checkpoint on the validation images,
            as ``segmentation tune`` does, for this score; true is the score of objects that chooses
            the epoch (image_ap where pixels, a loss or SEG do), false: as trained.
    """

    root: str = "runs"
    name: str = "unnamed"
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "biomedical-segmentation"
    tags: tuple[str, ...] = ()
    artifact: bool = False
    overlays: Colours = "objects"
    weights: str | None = None
    ensemble: list[str] | None = None
    resume: bool = False
    save_every: float = 10.0
    tune: bool | str = True


class ParserError(Exception):
    """A parser's message as it is: parsers are nested, and only the outermost knows the option."""


class Parser(LightningArgumentParser):
    """LightningCLI's, which raises what it would print."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ParserError(message)


def link_task_to_data(parser: LightningArgumentParser) -> None:
    """Data are prepared and encoded as the task says, whose checkpoint keeps it."""
    for name in ("preprocess", "target"):
        parser.link_arguments(
            "model", f"data.init_args.{name}", attrgetter(name), apply_on="instantiate"
        )


def check_ranges(config: Any) -> None:
    """Raise :class:`UserError` for a value of a command's config that is out of its range."""

    def value(key: str) -> Any:
        group, _, name = key.partition(".")
        found = config.get(group)
        for part in ("init_args", *name.split(".")) if group in ("model", "data") else [name]:
            found = found.get(part) if part and hasattr(found, "get") else found
        return found

    for key, (least, most) in _RANGES.items():
        number = value(key)
        if isinstance(number, int | float) and not least <= number <= most:
            wanted = f"from {least} to {most}" if most < math.inf else f"at least {least}"
            wanted = "above 0" if least == math.ulp(0) else wanted
            raise UserError(f"{key}: {number} must be {wanted}")
    devices, most = str(value("trainer.devices")), 4 * usable_cores()
    if devices.isdigit() and int(devices) > most and not torch.cuda.is_available():
        raise UserError(  # before they are started, which would stall the machine
            f"trainer.devices: {devices} processes on {usable_cores()} core(s), without a GPU; set "
            f"at most {most}"
        )
    for key in _GROUPS:
        if value(key) is None:
            raise UserError(f"{key}: must not be null; leave it out, or give its keys")


def parser_gist(message: str) -> str:
    r"""The gist of jsonargparse's nested message: which key, its value, and what is wrong with it.

    >>> parser_gist("Parser key \"data.crop\": Expected a <class 'int'>. Got value: abc")
    '--data.crop abc: must be a whole number; see segmentation fit --help-all'
    """
    # What a class may be given as is said with each list of them.
    text = re.sub(r" Not a valid subclass of .*?\(implicit class_path\)", "", one_line(message))
    keys = [key for key, _ in groupby(re.findall(r'Parser key "([\w.]+)":', text))]
    values = re.findall(r"(?:Got|Given) value: (.+?)(?= Expected| Given value| Parser key|$)", text)
    nests = ("NestedArg", "Namespace", "{", "[Namespace")
    value = next((v for v in values if not v.startswith(nests)), "")
    if nested := re.findall(r"NestedArg\(key='([^']+)', val='?([^')]*)", text):
        keys, value = [keys[0], nested[-1][0]], nested[-1][1]
    if len(keys) == 2 and (given := re.findall(r"Given value: (\{.*\})", text)):
        with suppress(ValueError, SyntaxError):  # of a file the keys between the two are left out
            names = [n for n in dotted(ast.literal_eval(given[-1])) if f".{n}".endswith(keys[1])]
            keys[1] = names[0] if len(names) == 1 else keys[1]
    key = ".".join(keys)
    option = f"--{key} {value}: " if key else ""
    said = ""
    if missing := re.search(r"arguments are required: ([\w., ]+?)(?: Expected| Given|$)", text):
        name = f"{key}.{missing[1]}".lstrip(".").removeprefix("fit.")
        said = f"{name}: is missing; give it, or a --config that has it"
    elif found := re.search(r"Unable to load config '?(.*?)'? Parser key", text):
        said = f"--{key} {found[1]}: must be a mapping of its keys"
    elif found := re.match(r"[Uu]nrecognized arguments: ([^-]\S*)", text):
        said = f"{found[1]}: is no option; give a config as --config {found[1]}"
    elif found := re.search(r"Group '(\w+)' does not accept option '([\w.]+)'", text):
        said = f"--{keys[0]}.{found[1]}.{found[2]}: no such key"
    wanted = [
        found.expand(kind)
        for pattern, kind in _KINDS.items()
        for found in re.finditer(rf"(?:Expected |Expected a ){pattern}", text)
    ]
    classes = re.findall(r"Expected a dot import path string: (\S+)", text)
    if classes and not said and (not wanted or "a list" in wanted):
        said = f"{option}no class is called {classes[0]}; write it as module.Class"
    elif wanted and not said:
        said = f"{option}must be {' or '.join(dict.fromkeys(wanted))}"
    if said:
        return shortened(f"{said}; see segmentation fit --help-all")
    text = text.split("Given value type:")[0]
    for start in ("Errors: ", "Problem with given class_path "):
        text = text.rpartition(start)[2]
    text = re.sub(r'(^\S+ )?Parser key "[\w.]+": |Expected a <class \'NoneType\'>', "", text)
    return shortened(f"{option}{text.strip()}; see segmentation fit --help-all")
