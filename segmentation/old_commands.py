"""The commands beside LightningCLI's: their options; the work is imported when it is wanted."""

from collections.abc import Sequence
from pathlib import Path

from segmentation.arguments import Parser
from segmentation.data_commands import audit as audit
from segmentation.data_commands import prepare as prepare
from segmentation.data_commands import synthetic as synthetic
from segmentation.doctor.commands import doctor as doctor
from segmentation.errors import UserError
from segmentation.evaluation.commands import compare as compare
from segmentation.evaluation.commands import evaluate as evaluate


def _add_networks(parser: Parser) -> None:
    """Options of what applies trained networks."""
    parser.add_argument(
        "--ckpt_path",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="written by fit, prune or export; the probabilities of several are averaged",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def predict(arguments: Sequence[str]) -> int:
    """Masks, objects and their measurements for a folder of images, from trained checkpoints."""
    parser = Parser("segmentation predict", description=predict.__doc__, allow_abbrev=False)
    _add_networks(parser)
    parser.add_argument(
        "--data.images",
        required=True,
        type=Path,
        dest="images",
        metavar="DIR",
        help="folder of PNG, TIFF (stacks too), JPEG or BMP images; subfolders are kept",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="gets masks/, objects.csv, images.csv, manifest.json; started again, it goes on",
    )
    parser.add_argument(
        "--labels",
        nargs="?",
        const="tiff",
        choices=("tiff", "png"),
        help="also labels/: each object its own number, 16 or 32 bits (tiff)",
    )
    for name, text in (
        ("probabilities", "also probabilities/: 16-bit TIFF, 65535 = certain foreground"),
        ("overlays", "also overlays/: the images with the objects tinted"),
        ("geojson", "also geojson/: outlines for QuPath"),
        ("rle", "also rle.csv: run lengths as Kaggle wants them"),
        ("rois", "also rois/: outlines for ImageJ's ROI Manager"),
        ("tta", "average over eight symmetries: better, 8 times slower"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.epilog = "The status is 1 when files were left out; they are named at the end."
    options = parser.parse_args(arguments)
    from segmentation.predict.folder import predict_folder
    from segmentation.predict.outputs import Outputs

    outputs = Outputs(
        options.output,
        options.labels,
        options.probabilities,
        options.overlays,
        options.geojson,
        options.rle,
        options.rois,
    )
    return predict_folder(options.ckpt_path, options.images, outputs, options.device, options.tta)


def prune(arguments: Sequence[str]) -> int:
    """Score every head of a deeply supervised U-Net++ on the validation set, keep the best."""
    parser = Parser("segmentation prune", description=prune.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint of the pruned network, for predict and test",
    )
    parser.add_argument("--ckpt_path", required=True, help="the trained U-Net++")
    parser.add_argument("--level", type=int, help="keep this head instead of the best")
    parser.epilog = "All other options (--config, --data.…, --trainer.…) are those of validate."
    options, rest = parser.parse_known_args(arguments)
    from segmentation.experiments.prune import ChooseHead
    from segmentation.training.cli import run

    run(
        ["validate", "--ckpt_path", options.ckpt_path, *rest],
        [ChooseHead(options.output, options.level)],
    )
    return 0


def export(arguments: Sequence[str]) -> int:
    """Write a checkpoint with nothing but what test and predict need, to give away."""
    parser = Parser("segmentation export", description=export.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--ckpt_path", required=True, type=Path, metavar="FILE", help="written by fit"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the new one")
    parser.add_argument(
        "--half", action="store_true", help="in float16: half the size, the same scores to rounding"
    )
    parser.epilog = "What segmentation tune found for it becomes part of it."
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise UserError(f"{options.output}: exists already; choose another --output")
    from segmentation.checkpoints import read_checkpoint, save_for_inference

    save_for_inference(read_checkpoint(options.ckpt_path), options.output, options.half)
    before, after = (path.stat().st_size / 1e6 for path in (options.ckpt_path, options.output))
    print(f"{options.output}: {after:.1f} MB of {before:.1f} MB")
    return 0


def serve(arguments: Sequence[str]) -> int:
    """Try trained checkpoints on one image after another, on a page in the browser."""
    parser = Parser("segmentation serve", description=serve.__doc__, allow_abbrev=False)
    _add_networks(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="to listen on (127.0.0.1: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, help="(8000)")
    parser.epilog = "Whoever reaches the address may use it: there is no login. No image is kept."
    options = parser.parse_args(arguments)
    from segmentation.app.server import server
    from segmentation.predict.folder import load_tasks

    tasks = load_tasks(options.ckpt_path, options.device, tta=False)
    title = ", ".join(path.name for path in options.ckpt_path)
    with server(tasks, title, options.host, options.port) as listening:
        print(f"http://{options.host}:{listening.server_port} (Ctrl-C ends it)", flush=True)
        listening.serve_forever()
    return 0


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


def tune(arguments: Sequence[str]) -> int:
    """Choose threshold, seeds and sizes of the decoding on the validation images."""
    parser = Parser("segmentation tune", description=tune.__doc__, allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="written by fit")
    parser.add_argument(
        "--score",
        default="image_ap",
        help="what is to be highest: image_ap (Kaggle's), ap50, pq, aji, seg, image_iou, …",
    )
    parser.epilog = (
        "All other options (--config, --data.…, --trainer.…) are those of validate. The settings "
        "are kept beside the checkpoint, in NAME.tuned.json; test and predict follow them."
    )
    options, rest = parser.parse_known_args(arguments)
    from segmentation.experiments.tune import Tune
    from segmentation.training.cli import run

    command = ["validate", "--ckpt_path", options.ckpt_path, *rest]
    run(command, [Tune(options.score)], tuned=False)
    return 0
