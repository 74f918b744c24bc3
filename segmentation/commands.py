"""The commands beside LightningCLI's: their options; the work is imported when it is wanted."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from segmentation.doctor.commands import doctor as doctor
from segmentation.errors import UserError
from segmentation.evaluation.commands import compare as compare
from segmentation.evaluation.commands import evaluate as evaluate

# What audit reads: the data module, and those of its own options that the reader needs.
_MODULES = {
    "dsb2018": ("segmentation.data.dsb2018.DSB2018DataModule", ()),
    "bbbc039": ("segmentation.data.bbbc039.BBBC039DataModule", ()),
    "dic_hela": ("segmentation.data.dic_hela.DICHeLaDataModule", ("truth",)),
    "ultrasound_nerve": ("segmentation.data.ultrasound_nerve.UltrasoundNerveDataModule", ()),
    "folder": ("segmentation.data.folder.FolderDataModule", ("images", "masks", "mask_type")),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def predict(arguments: Sequence[str]) -> int:
    """Masks, objects and their measurements for a folder of images, from trained checkpoints."""
    parser = _Parser("segmentation predict", description=predict.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--ckpt_path",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="written by fit or prune; the probabilities of several are averaged",
    )
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.epilog = "The status is 1 when files were left out; they are named at the end."
    options = parser.parse_args(arguments)
    from segmentation.outputs import Outputs
    from segmentation.predict import predict_folder

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
    parser = _Parser("segmentation prune", description=prune.__doc__, allow_abbrev=False)
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
    from segmentation.cli import run
    from segmentation.prune import ChooseHead

    run(
        ["validate", "--ckpt_path", options.ckpt_path, *rest],
        [ChooseHead(options.output, options.level)],
    )
    return 0


def export(arguments: Sequence[str]) -> int:
    """Write a checkpoint with nothing but what test and predict need, to give away."""
    parser = _Parser("segmentation export", description=export.__doc__, allow_abbrev=False)
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
    from segmentation.checkpoint import read_checkpoint, save_for_inference

    save_for_inference(read_checkpoint(options.ckpt_path), options.output, options.half)
    before, after = (path.stat().st_size / 1e6 for path in (options.ckpt_path, options.output))
    print(f"{options.output}: {after:.1f} MB of {before:.1f} MB")
    return 0


def synthetic(arguments: Sequence[str]) -> int:
    """Make synthetic images (nuclei, cells, ultrasound) with truth to try everything with."""
    parser = _Parser("segmentation synthetic", description=synthetic.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="must not exist yet"
    )
    parser.add_argument(
        "--layout",
        choices=("dsb2018", "folder", "dic_hela", "bbbc039", "ultrasound_nerve"),
        default="dsb2018",
        help="whose files they look like; folder: images/ and masks/",
    )
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.images < 1:
        raise UserError(f"--images {options.images}: must be at least 1")
    from segmentation.data import synthetic as layouts

    write = getattr(layouts, f"write_{options.layout}")
    try:
        write(options.output, options.images, seed=options.seed)
    except OSError as error:
        raise UserError(
            f"{options.output}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    print(f"{options.images} images in {options.output}")
    return 0


def prepare(arguments: Sequence[str]) -> int:
    """Download, verify, unpack and check a public dataset, and print what it holds."""
    from segmentation.data.official import DATASETS

    parser = _Parser("segmentation prepare", description=prepare.__doc__, allow_abbrev=False)
    parser.add_argument("dataset", choices=tuple(DATASETS), help="which")
    parser.add_argument(
        "--root",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to make it in; what is there already is verified and kept",
    )
    parser.add_argument(
        "--archive",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="FILE",
        help="official files that are at hand; with any, nothing is downloaded",
    )
    parser.add_argument(
        "--url-base", default="", metavar="URL", help="a mirror's folder that holds the files"
    )
    parser.epilog = (
        "An interrupted download goes on where it stopped. ultrasound_nerve needs a login: this "
        "command says what to do."
    )
    options = parser.parse_args(arguments)
    from segmentation.data.prepare import prepare as make

    make(options.dataset, options.root, options.archive, options.url_base)
    return 0


def audit(arguments: Sequence[str]) -> int:
    """Duplicates, leaks, faulty labels and distributions of a dataset, as a page and a JSON."""
    parser = _Parser("segmentation audit", description=audit.__doc__, allow_abbrev=False)
    parser.add_argument("dataset", choices=tuple(_MODULES), help="which; folder: your own images")
    parser.add_argument(
        "--root", required=True, metavar="DIR", help="where it is, as data.root in a config"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="gets audit.html, audit.json and corrections.yaml; must not exist yet",
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="split.json of a run, to look for leaks in; the dataset's default split otherwise",
    )
    parser.add_argument(
        "--corrections", metavar="FILE", help="audit what the data are after these corrections"
    )
    parser.add_argument(
        "--near",
        type=float,
        default=0.4,
        help="largest difference of near-duplicates: 0 equal, 1.4 unrelated (0.4)",
    )
    parser.add_argument(
        "--agree",
        type=float,
        default=0.7,
        help="masks of duplicates with an IoU below this contradict each other (0.7)",
    )
    parser.add_argument(
        "--small", type=int, default=10, help="list objects of fewer pixels than this (10)"
    )
    own = parser.add_argument_group("as in a config, for one dataset")
    own.add_argument("--images", metavar="NAME", help="folder: name of the images' folder")
    own.add_argument("--masks", metavar="NAME", help="folder: name of the masks' folder")
    own.add_argument(
        "--mask_type", choices=("binary", "labels", "objects"), help="folder: what a mask holds"
    )
    own.add_argument("--truth", choices=("gold", "silver", "best"), help="dic_hela: which truth")
    parser.epilog = (
        "The status is 1 when samples cannot be read; the others are audited all the same."
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.near < 1:
        raise UserError(f"--near {options.near}: must be at least 0 and below 1")
    if not 0 <= options.agree <= 1:
        raise UserError(f"--agree {options.agree}: must be between 0 and 1")
    if options.small < 0:
        raise UserError(f"--small {options.small}: must be at least 0")
    path, allowed = _MODULES[options.dataset]
    given = {name: getattr(options, name) for name in ("images", "masks", "mask_type", "truth")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in allowed:
            raise UserError(f"--{name}: is not an option of {options.dataset}; leave it out")
    from importlib import import_module

    from segmentation.data.audit import audit as examine
    from segmentation.data.audit import findings, read_split

    module, _, cls = path.rpartition(".")
    data = getattr(import_module(module), cls)(
        options.root, corrections=options.corrections, **given
    )
    split, name = data.splitter, f"the default {data.splitter}"
    if options.split is not None:
        split, name = read_split(options.split), str(options.split)
    report = examine(
        data.source, options.output, split, name, options.near, options.agree, options.small
    )
    print(findings(report))
    print(f"page {options.output / 'audit.html'}")
    return 1 if report["faults"] else 0


def reproduce(arguments: Sequence[str]) -> int:
    """Run published experiments and set their scores beside the published ones."""
    parser = _Parser("segmentation reproduce", description=reproduce.__doc__, allow_abbrev=False)
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
    from segmentation.reproduce import find_rows
    from segmentation.reproduce import reproduce as run_rows

    rows = find_rows(options.configs, options.what)
    return run_rows(rows, options.budget, options.seeds, options.data, options.output)


def weights(arguments: Sequence[str]) -> int:
    """Draw a mask with its class weights, border weights and their sum."""
    parser = _Parser("segmentation weights", description=weights.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--mask",
        required=True,
        type=Path,
        metavar="FILE",
        help="label map, or a mask of two values whose connected components are the objects",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="PNG")
    parser.add_argument("--w0", type=float, default=10.0, help="height of the border weights (10)")
    parser.add_argument("--sigma", type=float, default=5.0, help="their width in pixels (5)")
    parser.add_argument(
        "--gap", type=int, default=0, help="part objects that touch by so many pixels of each (0)"
    )
    options = parser.parse_args(arguments)
    from segmentation.data.images import label_components, read_mask, write_image
    from segmentation.data.weights import BorderWeight, weight_figure

    labels = read_mask(options.mask)
    if (labels[labels > 0] == labels.max(initial=0)).all():  # one value: not numbered yet
        labels = label_components(labels > 0)
    border = BorderWeight(options.w0, options.sigma, gap=options.gap)
    write_image(options.output, weight_figure(labels, border))
    print(options.output)
    return 0


def crossvalidate(arguments: Sequence[str]) -> int:
    """Train and test on every fold of a cross-validation, and pool the scores."""
    parser = _Parser(
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
    from segmentation.crossvalidate import crossvalidate as run_folds
    from segmentation.crossvalidate import output_folder

    fit = [*(f"--config={path}" for path in options.config), *rest]
    output = options.output or output_folder(fit, options.folds)
    return run_folds(fit, options.folds, output)


def tune(arguments: Sequence[str]) -> int:
    """Choose threshold, seeds and sizes of the decoding on the validation images."""
    parser = _Parser("segmentation tune", description=tune.__doc__, allow_abbrev=False)
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
    from segmentation.cli import run
    from segmentation.tune import Tune

    command = ["validate", "--ckpt_path", options.ckpt_path, *rest]
    run(command, [Tune(options.score)], tuned=False)
    return 0
