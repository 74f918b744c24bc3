"""``segmentation init``: a shipped config as one file, or one made for a data set and a budget."""

import os
import re
import time
from pathlib import Path

from segmentation.config_files import configs_folder, copy_config, write_new
from segmentation.errors import UserError

_UNITS = {"h": 3600, "m": 60, "s": 1}


def init(
    name: str = "folder",
    /,
    *options: str,
    data_root: Path | None = None,
    budget: str | None = None,
    pretrained: str | None = None,
    output: Path = Path("config.yaml"),
) -> None:
    """Write a config: a shipped one as one file, or one made for your images and a budget.

    With --data.root or --budget it looks at the training and validation images and at this machine,
    times a few training steps, and writes a config whose training ends within the budget and whose
    comments give the reason of each choice. Where a folder's images clearly come from several
    sources, the split keeps these apart, and a file beside the config, config_sources.csv, lists
    them. Other options are those of how the data are read (--data.mask_type, --data.split, …) and
    are kept as typed.

    Args:
        name: Of a shipped config, such as ``dsb2018/unet_small``; with a budget the kind of data:
            folder, dsb2018, bbbc039, dic_hela, ….
        data_root: Folder of the data.
        budget: Time that fit may take here, such as 90s, 30m (the default) or 1h30m.
        pretrained: Start from an encoder's weights: a file of timm's tf_efficientnet_lite2, or
            imagenet, which fetches them.
        output: The file; must not exist yet.

    Raises:
        UserError: Something typed is wrong, the data cannot be read, the budget is too small, or
            the file exists or cannot be written.
    """
    if data_root is None and budget is None:
        for option in (*options, *([f"--pretrained {pretrained}"] if pretrained else [])):
            raise UserError(
                f"{option}: goes with --data.root DIR and --budget, which plan a config"
            )
        copy_config(name, output)
        return
    seconds = parsed_budget(budget or "30m")
    home = output.absolute().parent
    for reason, fails in (
        ("File exists", output.exists()),
        (f"{home} is no folder", not home.is_dir()),
        ("Permission denied", not os.access(home, os.W_OK)),
    ):
        if fails:  # found before anything is measured
            raise UserError(f"{output}: cannot be written ({reason}); choose another --output")
    kinds = sorted(path.stem for path in (configs_folder() / "data").glob("*.yaml"))
    if name not in kinds:
        raise UserError(
            f"{name}: with --data.root or --budget this is the kind of data: {', '.join(kinds)}"
        )
    begun = time.perf_counter()  # a shipped config is written at once, without these imports
    from segmentation.experiments.plan.made import make_plan
    from segmentation.experiments.plan.written import as_yaml, plan_lines

    imported = time.perf_counter() - begun
    beside = output.with_name(f"{output.stem}_sources.csv")
    own = not beside.exists()
    try:
        plan = make_plan(
            name, options, seconds, data_root, pretrained, start=imported, beside=beside
        )
        root = plan.config["data"]["init_args"]["root"]
        head = f"Made by: segmentation init {name} --data.root {root} --budget {budget or '30m'}"
        write_new(output, as_yaml(plan, f"{head}\nTrain with: segmentation fit --config {output}"))
    except BaseException:
        if own:
            beside.unlink(missing_ok=True)
        raise
    print(f"{plan_lines(plan)}\n\n{output}\nTrain with: segmentation fit --config {output}")


def parsed_budget(text: str) -> float:
    """Seconds.

    >>> parsed_budget("90s"), parsed_budget("1h30m")
    (90.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not seconds:
        raise UserError(f"--budget {text}: must be a time such as 90s, 30m, 2h or 1h30m")
    return seconds
