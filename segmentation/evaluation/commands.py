"""The commands `evaluate` and `compare`: their options; the work is imported when it is wanted."""

from collections.abc import Sequence
from pathlib import Path

from segmentation.arguments import Parser


def evaluate(arguments: Sequence[str]) -> int:
    """Score a folder of masks or label maps, from any tool, against the truth."""
    parser = Parser("segmentation evaluate", description=evaluate.__doc__, allow_abbrev=False)
    for name, about in (
        ("--truth", "masks or label maps: PNG, TIFF, BMP or NPY; subfolders are groups (subjects)"),
        ("--prediction", "the same names, whatever the suffix"),
        ("--output", "gets report.html, scores.json and per_image.csv"),
    ):
        parser.add_argument(name, required=True, type=Path, metavar="DIR", help=about)
    parser.add_argument(
        "--probabilities",
        type=Path,
        metavar="DIR",
        help="foreground probabilities: 8 or 16 bit (the largest value is 1), or float TIFF",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="score Otsu's threshold on them, too, and show the worst ones under their outlines",
    )
    parser.add_argument(
        "--labels",
        choices=("auto", "instances", "mask"),
        default="auto",
        help="what values mean: ids of objects, or foreground whose connected components are the "
        "objects; auto finds out for each folder",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out what one folder alone has"
    )
    parser.epilog = (
        "Intervals are 95 % bootstrap intervals over images, or over the groups where there are "
        "two or more."
    )
    options = parser.parse_args(arguments)
    from segmentation.evaluation.evaluate import evaluate as score
    from segmentation.evaluation.evaluate import format_scores

    report = score(
        options.truth,
        options.prediction,
        options.output,
        options.probabilities,
        options.images,
        options.labels,
        options.allow_missing,
    )
    print(format_scores(report))
    print(f"\npage      {options.output / 'report.html'}")
    print(f"scores    {options.output / 'scores.json'}, per_image.csv")
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Runs and evaluations beside each other, paired over the same images."""
    parser = Parser("segmentation compare", description=compare.__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run that was tested, or output of evaluate; NAME=RUN,RUN,… pools the "
        "seeds of one experiment. The others are compared with the first",
    )
    parser.add_argument(
        "--score",
        action="append",
        default=[],
        metavar="NAME",
        help="print this one, such as image_iou; may be repeated. The files hold all",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="gets compare.csv, compare.json, compare.html"
    )
    options = parser.parse_args(arguments)
    from segmentation.evaluation.compare import compare as examine
    from segmentation.evaluation.compare import format_comparison

    print(format_comparison(examine(options.runs, options.output, options.score)))
    if options.output is not None:
        print(f"\npage      {options.output / 'compare.html'}, compare.csv, compare.json")
    return 0
