"""The pixel scores of this package against torchmetrics' own, per validation image.

An update of ``ScoreTable(objects=False)`` (IoU, F1, precision, recall, mean IoU, two means over
images, AUROC and average precision) against an update of a MetricCollection of BinaryJaccardIndex,
BinaryF1Score, BinaryPrecision, BinaryRecall and BinaryAUROC with the customary 200 thresholds, or
with 1024 as there are bins here. Fair because both get the same probabilities and masks, on one
thread, with all their input checks; compute groups are formed before the clock starts; ours does
four scores more.
The exact AUROC (no thresholds) only stores pixels in its update, so its compute() counts as well.

How near the binned AUROC and average precision come to scikit-learn's exact values is measured on
blurred, noisy logits of synthetic nuclei: once calibrated, once overconfident (logits ×4).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from common import Report, alternate, arguments, ratio, seconds
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
)

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.metrics import ScoreTable

Scores = ScoreTable | MetricCollection


def main() -> None:
    parser = arguments("metrics", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--updates", type=int, default=5, help="updates an arm and round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(
        "metrics",
        "at least 20 times cheaper than torchmetrics' usual scores with AUROC(thresholds=200)",
        {"sizes": args.sizes, "updates": args.updates, "threads": 1},
    )
    for size in args.sizes:
        probs, mask = (part[None] for part in example(size, seed=0))
        collections: dict[str, Scores] = {
            "package": ScoreTable(objects=False),
            "stock, 200 thresholds": stock(200),
            "stock, 1024 thresholds": stock(1024),
            "stock without AUROC": stock(0),
        }
        arms = {
            name: partial(time_updates, metrics, probs, mask, args.updates)
            for name, metrics in collections.items()
        }
        arms["stock, exact AUROC, with compute()"] = partial(
            time_exact, stock(None), probs, mask, args.updates
        )
        taken = alternate(arms, args.repeats)
        for name, values in taken.items():
            report.add(f"{size}²: {name}", "ms/image", [1000 * v for v in values])
        for name in list(taken)[1:]:
            report.add(f"{size}²: {name} / package", "×", ratio(taken[name], taken["package"]))
        for name in ("package", "stock, 200 thresholds"):
            compute = partial(time_compute, collections[name])
            values = [1000 * compute() for _ in range(args.repeats)]
            report.add(f"{size}²: compute() once an epoch, {name}", "ms", values)
    accuracy(report, args.repeats)
    report.finish(args.output)


def example(size: int, seed: int, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Probabilities as of a trained network, float32, and the true foreground, both (H, W)."""
    rng = np.random.default_rng(seed)
    _, labels = make_nuclei(rng, size, size, "fluorescence")
    mask = labels > 0
    near = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.5)
    noise = cv2.GaussianBlur(rng.normal(0, 12, mask.shape).astype(np.float32), (0, 0), 3)
    logits = sharpness * (10 * (near - 0.5) + noise + rng.normal(0, 0.3, mask.shape))
    return torch.from_numpy(logits.astype(np.float32)).sigmoid(), torch.from_numpy(mask)


def stock(thresholds: int | None) -> MetricCollection:
    """torchmetrics' usual five; 0 leaves AUROC out, ``None`` takes the exact one."""
    scores: list[Any] = [BinaryJaccardIndex(), BinaryF1Score(), BinaryPrecision(), BinaryRecall()]
    return MetricCollection(
        scores + ([] if thresholds == 0 else [BinaryAUROC(thresholds=thresholds)])
    )


def time_updates(metrics: Scores, probs: Tensor, mask: Tensor, updates: int) -> float:
    """Seconds an update. The first round, a warm-up, forms the compute groups."""

    def run() -> None:
        for _ in range(updates):
            if isinstance(metrics, ScoreTable):
                metrics.update(mask.int(), probs=probs)
            else:
                metrics.update(probs, mask)

    return seconds(run) / updates


def time_exact(metrics: Scores, probs: Tensor, mask: Tensor, updates: int) -> float:
    """Seconds an image of updates and one compute() over all of them."""
    metrics.reset()
    return time_updates(metrics, probs, mask, updates) + seconds(metrics.compute) / updates


def time_compute(metrics: Scores) -> float:
    """Seconds for the scores of an epoch; torchmetrics would keep the result."""
    single = [metrics] if isinstance(metrics, ScoreTable) else metrics.values(copy_state=False)
    for metric in single:
        metric._computed = None
    return seconds(metrics.compute)


def accuracy(report: Report, images: int) -> None:
    """How far from the exact values, one round an image of 512²."""
    exact: dict[str, Callable[..., float]] = {
        "auroc": roc_auc_score,
        "average_precision": average_precision_score,
    }
    for title, sharpness in (("calibrated", 1.0), ("overconfident", 4.0)):
        errors: dict[str, list[float]] = {name: [] for name in exact}
        usual, wanted = [], []
        for seed in range(images):
            probs, mask = example(512, seed, sharpness)
            ours, theirs = ScoreTable(objects=False), BinaryAUROC(thresholds=200)
            ours.update(mask[None].int(), probs=probs[None])
            scores = ours.compute()
            for name, function in exact.items():
                truth = function(mask.numpy().ravel(), probs.numpy().ravel())
                errors[name].append(abs(float(scores[name]) - truth))
                wanted += [truth] if name == "auroc" else []
            usual.append(abs(float(theirs(probs, mask.int())) - wanted[-1]))
        report.add(f"{title}: exact AUROC (scikit-learn)", "", wanted)
        report.add(f"{title}: error of package's AUROC", "", errors["auroc"])
        report.add(f"{title}: error of BinaryAUROC(200)", "", usual)
        report.add(
            f"{title}: error of package's average precision", "", errors["average_precision"]
        )


if __name__ == "__main__":
    main()
