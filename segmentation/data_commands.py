"""The commands on data: their options; the work is imported when it is wanted."""

from collections.abc import Sequence
from pathlib import Path

from segmentation.arguments import Parser
from segmentation.errors import UserError

# What audit reads: the data module, and those of its own options that the reader needs.
_MODULES = {
    "dsb2018": ("segmentation.datasets.dsb2018.DSB2018DataModule", ()),
    "bbbc039": ("segmentation.datasets.bbbc039.BBBC039DataModule", ()),
    "dic_hela": ("segmentation.datasets.dic_hela.DICHeLaDataModule", ("truth",)),
    "ultrasound_nerve": ("segmentation.datasets.ultrasound_nerve.UltrasoundNerveDataModule", ()),
    "folder": ("segmentation.datasets.folder.FolderDataModule", ("images", "masks", "mask_type")),
}


def audit(arguments: Sequence[str]) -> int:
    """Duplicates, leaks, faulty labels and distributions of a dataset, as a page and a JSON."""
    parser = Parser("segmentation audit", description=audit.__doc__, allow_abbrev=False)
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

    from segmentation.evaluation.audit import audit as examine
    from segmentation.evaluation.audit import findings, read_split

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
