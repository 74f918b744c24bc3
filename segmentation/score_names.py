"""The names under which values are logged; importing them costs nothing."""

from collections.abc import Sequence
from difflib import get_close_matches

from segmentation.errors import UserError

PIXEL_SCORES = ("iou", "f1", "precision", "recall", "mean_iou")
OBJECT_SCORES = (
    *("ap50", "ap75", "ap90", "ap", "f1_50", "f1_70", "f1_90", "precision_50", "recall_50"),
    *("pq", "sq", "rq", "aji", "seg", "matched_iou", "count_error"),
)
# At StarDist's thresholds and their mean, as far as they are not among the above. Not logged.
STARDIST_SCORES = (
    *("ap60", "ap70", "ap80", "ap_50_90", "f1_60", "f1_80"),
    *(f"{name}_{iou}" for iou in (60, 70, 80, 90) for name in ("precision", "recall")),
)
BACKGROUND = "background"  # what class 0 is called
CLASS_SCORES = ("iou", "f1", "ap50", "pq")  # of single classes, as iou/NAME
MEANS = tuple(f"class_{name}" for name in CLASS_SCORES)  # over the classes
LOGGED = (
    *(*PIXEL_SCORES, "image_iou", "image_f1", "auroc", "average_precision"),
    *(f"{mean}{name}" for name in OBJECT_SCORES for mean in ("", "image_")),
)


def named(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """What one kind of score is called for each class."""
    return tuple(f"{kind}/{name}" for name in names)


def logged(names: Sequence[str]) -> tuple[str, ...]:
    """The scores that are logged where these classes are told apart, or none.

    >>> logged(["a", "b"])[-3:]
    ('pq/a', 'pq/b', 'class_pq')
    """
    if not names:
        return LOGGED
    of_classes = ((*named(k, names), m) for k, m in zip(CLASS_SCORES, MEANS, strict=True))
    return (*LOGGED, *(name for several in of_classes for name in several))


def of_class(name: str) -> bool:
    """Whether a logged name is that of a score by class, whose names only a config knows."""
    kind, _, single = name.partition("/")[2].partition("/")
    return kind in MEANS or bool(single and kind in CLASS_SCORES)


VALIDATED = tuple(f"val/{name}" for name in ("loss", *LOGGED))
TESTED = tuple(f"test/{name}" for name in ("loss", *LOGGED))
LOSSES = ("train/loss_step", "train/loss_epoch")
MEASURED = (
    *("train/grad_norm", "train/images_per_second"),
    *("memory/cpu_gib", "memory/gpu_gib"),
)
_SYNONYMS = {"dice": "f1", "jaccard": "iou"}


def check_logged(key: str, name: str, names: Sequence[str]) -> None:
    """Raise :class:`UserError` unless ``name``, the value of ``key``, is among ``names``."""
    if name in names or name.startswith("lr-"):  # of the optimizer, whose name is not known here
        return
    stage, _, score = name.replace("_", "/", 1).rpartition("/")
    ends = {known.partition("/")[2]: known for known in reversed(names)}
    near = get_close_matches(_SYNONYMS.get(score, score), ends, 1)
    meant = f"{stage}/{near[0]}" if near else ""
    hint = f"did you mean {meant if meant in names else ends[near[0]]}? L" if near else "l"
    raise UserError(f"{key}: {name} is not logged; {hint}ogged are {', '.join(names)}")
