"""The commands beside LightningCLI's: their options; the work is imported when it is wanted."""

from collections.abc import Sequence
from pathlib import Path

from segmentation.arguments import Parser
from segmentation.errors import UserError


def reproduce(arguments: Sequence[str]) -> int:
    """Run published experiments and set their scores beside the published ones."""
    parser = Parser("segmentation reproduce", description=reproduce.__doc__, allow_abbrev=False)
    parser.add_argument(
        "what", metavar="SYSTEM[/ROW]", help="such as b, or b/augmentation: a file of --configs"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="gets the runs, results.json and the table; started again, it goes on",
    )
    parser.add_argument(
        "--budget",
        choices=("smoke", "cpu", "full"),
        default="full",
        help="smoke: two steps of each; cpu: what two cores can bear; full: as published",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument(
        "--data", default=Path("data"), type=Path, metavar="DIR", help="holds dsb2018, bbbc039, …"
    )
    parser.add_argument("--configs", default=Path("configs/reproduce"), type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    from segmentation.experiments.reproduce import find_rows
    from segmentation.experiments.reproduce import reproduce as run_rows

    rows = find_rows(options.configs, options.what)
    return run_rows(rows, options.budget, options.seeds, options.data, options.output)


def crossvalidate(arguments: Sequence[str]) -> int:
    """Train and test on every fold of a cross-validation, and pool the scores."""
    parser = Parser(
        "segmentation crossvalidate", description=crossvalidate.__doc__, allow_abbrev=False
    )
    parser.add_argument("-c", "--config", action="append", required=True, metavar="FILE")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="how many (5)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="gets the runs, crossvalidation.csv and .json, and per_image.csv of all images as a "
        "run has it; started again, it goes on; beside the config's runs by default",
    )
    parser.epilog = (
        "All other options (--data.…, --model.…, --trainer.…) are those of fit. The status is 1 "
        "when a fold failed; the others are done all the same."
    )
    options, rest = parser.parse_known_args(arguments)
    if options.folds < 2:
        raise UserError(f"--folds {options.folds}: must be at least 2")
    for word in rest:
        name = word.partition("=")[0]
        if name in ("--data.fold", "--data.folds", "--run.root", "--run.name", "--ckpt_path"):
            raise UserError(f"{name}: is not for all folds; leave it out, give --folds or --output")
    from segmentation.experiments.crossvalidate import crossvalidate as run_folds
    from segmentation.experiments.crossvalidate import output_folder

    fit = [*(f"--config={path}" for path in options.config), *rest]
    output = options.output or output_folder(fit, options.folds)
    return run_folds(fit, options.folds, output)
