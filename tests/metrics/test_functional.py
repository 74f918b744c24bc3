"""Each pixel score against an independent implementation, a closed form or the documented rule."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import JaccardIndex
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
)

from segmentation.metrics import functional

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
SCORES = [functional.iou, functional.f1, functional.precision, functional.recall]


def random_case(seed: int, shape: tuple[int, ...] = (3, 17, 23)) -> tuple[Tensor, Tensor]:
    """Probabilities (B, H, W) float32 that know something of the mask (B, H, W) bool."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.3
    logits = 2 * torch.randn(shape, generator=generator) + 2.0 * mask - 1
    return logits.sigmoid(), mask


def disc(row: int, column: int, radius: int, size: int = 64) -> Tensor:
    """(1, size, size) bool."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)[None]


# Counts and the scores that follow from them


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0])
def test_counts_are_those_of_a_loop_over_pixels(threshold: float) -> None:
    probs, mask = random_case(0, (2, 5, 7))
    probs[:, 0] = threshold  # not above it: background
    counts = functional.confusion_counts(probs, mask, threshold)
    expected = torch.zeros(2, 4, dtype=torch.int64)
    for b, image in enumerate(probs.tolist()):
        for y, row in enumerate(image):
            for x, p in enumerate(row):
                predicted, true = p > threshold, bool(mask[b, y, x])
                expected[b, {(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[predicted, true]] += 1
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)


def test_counts_exceed_float32() -> None:
    # In float32 2^24 + 1 is 2^24.
    probs = torch.ones(1, 1, 2**24 + 1, dtype=torch.float16)
    counts = functional.confusion_counts(probs, torch.ones(1, 1, 2**24 + 1, dtype=torch.bool))
    assert counts.tolist() == [[2**24 + 1, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize(
    ("score", "reference"),
    list(
        zip(SCORES, [BinaryJaccardIndex, BinaryF1Score, BinaryPrecision, BinaryRecall], strict=True)
    ),
)
def test_pooled_scores_are_those_of_torchmetrics(
    score: Callable[[Tensor], Tensor], reference: type, threshold: float, seed: int
) -> None:
    probs, mask = random_case(seed)
    ours = score(functional.confusion_counts(probs, mask, threshold).sum(0))
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(reference(threshold)(probs, mask.long()).item(), abs=1e-6)


def test_mean_iou_is_that_of_torchmetrics() -> None:
    probs, mask = random_case(1)
    reference = JaccardIndex(task="multiclass", num_classes=2, average="macro")
    expected = reference((probs > 0.5).long(), mask.long()).item()
    counts = functional.confusion_counts(probs, mask).sum(0)
    assert functional.mean_iou(counts).item() == pytest.approx(expected, abs=1e-6)


def test_scores_of_images_are_scores_of_single_images() -> None:
    probs, mask = random_case(2)
    counts = functional.confusion_counts(probs, mask)
    for score in [*SCORES, functional.mean_iou]:
        singly = [
            score(functional.confusion_counts(p[None], m[None]))
            for p, m in zip(probs, mask, strict=True)
        ]
        assert torch.equal(score(counts), torch.cat(singly))


def test_two_discs() -> None:
    truth, predicted = disc(32, 26, 12), disc(32, 38, 12)
    area, overlap = int(truth.sum()), int((truth & predicted).sum())
    assert 0 < overlap < area == int(predicted.sum())
    counts = functional.confusion_counts(predicted.float(), truth)
    assert functional.iou(counts).item() == overlap / (2 * area - overlap)
    assert functional.f1(counts).item() == overlap / area
    assert functional.precision(counts).item() == functional.recall(counts).item() == overlap / area
    background = 64 * 64 - 2 * area + overlap
    background_iou = background / (64 * 64 - overlap)
    expected = (overlap / (2 * area - overlap) + background_iou) / 2
    assert functional.mean_iou(counts).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("p", "truth", "expected", "mean_iou"),
    [(0.9, 1, 1.0, 1.0), (0.9, 0, 0.0, 0.0), (0.1, 1, 0.0, 0.0), (0.1, 0, 1.0, 1.0)],
    ids=["full, full", "some, empty truth", "empty, some truth", "empty, empty"],
)
def test_one_pixel_shows_the_policy_for_empty_masks(
    p: float, truth: int, expected: float, mean_iou: float
) -> None:
    counts = functional.confusion_counts(torch.full((1, 1, 1), p), torch.full((1, 1, 1), truth))
    assert [score(counts).item() for score in SCORES] == [expected] * 4
    assert functional.mean_iou(counts).item() == mean_iou


@pytest.mark.parametrize(
    ("counts", "expected"),  # IoU, F1, precision, recall, mean IoU
    [
        ([0, 0, 0, 9], [1, 1, 1, 1, 1]),
        ([0, 3, 0, 6], [0, 0, 0, 0, 6 / 9 / 2]),
        ([0, 0, 3, 6], [0, 0, 0, 0, 6 / 9 / 2]),
        ([9, 0, 0, 0], [1, 1, 1, 1, 1]),
        ([0, 0, 0, 0], [math.nan] * 5),
    ],
)
def test_policy_for_empty_masks(counts: list[int], expected: list[float]) -> None:
    results = [score(torch.tensor(counts)).item() for score in [*SCORES, functional.mean_iou]]
    assert results == pytest.approx(expected, abs=1e-15, nan_ok=True)


# Histogram and the scores that follow from it


def test_histogram_is_that_of_a_loop_over_pixels() -> None:
    bins = 16
    probs, mask = random_case(3, (2, 9, 11))
    d = 2 * np.arange(bins + 1) / bins - 1
    edges = (1 + d * np.sqrt(2 - d**2)) / 2  # the documented lower edges
    for truth, counts in ((mask, 0), (~mask, 1)):
        expected, _ = np.histogram(probs[truth].numpy(), edges)
        hist = functional.probability_histogram(probs, mask, bins)
        assert hist.dtype == torch.int64
        assert hist[counts].tolist() == expected.tolist()


def test_histogram_holds_both_ends_and_keeps_the_order() -> None:
    probs = torch.linspace(0, 1, 5001).reshape(1, 1, -1)
    mask = torch.ones_like(probs, dtype=torch.bool)
    assert functional.probability_histogram(probs, mask).sum() == 5001
    bins_of = [
        functional.probability_histogram(p.view(1, 1, 1), mask[..., :1])[0].argmax().item()
        for p in probs[0, 0, ::50]
    ]
    assert bins_of == sorted(bins_of)
    assert (bins_of[0], bins_of[-1]) == (0, 1023)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [32, 1024])
def test_ranking_scores_of_the_bins_are_exact(bins: int, seed: int) -> None:
    """Scores that scikit-learn computes from the bins' numbers instead of the probabilities."""
    probs, mask = random_case(seed)
    hist = functional.probability_histogram(probs, mask, bins)
    scores = np.repeat(np.tile(np.arange(bins), 2), hist.flatten().numpy())
    truth = np.repeat([1, 0], hist.sum(1).numpy())
    auroc, ap = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    assert functional.auroc_from_histogram(hist).item() == pytest.approx(auroc, abs=1e-12)
    assert functional.average_precision_from_histogram(hist).item() == pytest.approx(ap, abs=1e-12)


@pytest.mark.parametrize(
    ("distance", "spread", "auroc_tolerance", "ap_tolerance"),
    [(1.0, 1.0, 2e-5, 1e-3), (6.0, 2.0, 2e-5, 1e-3), (14.0, 6.0, 3e-4, 6e-3)],
    ids=["unsure", "trained", "overconfident"],
)
def test_ranking_scores_of_1024_bins_are_near_the_exact_ones(
    distance: float, spread: float, auroc_tolerance: float, ap_tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand((1, 256, 256), generator=generator) < 0.1
    noise = spread * torch.randn((1, 256, 256), generator=generator)
    probs = (noise + distance * (mask.float() - 0.57)).sigmoid()
    hist = functional.probability_histogram(probs, mask)
    truth, scores = mask.flatten().numpy(), probs.flatten().numpy()
    auroc = functional.auroc_from_histogram(hist).item()
    exact_auroc = roc_auc_score(truth, scores)
    assert auroc == pytest.approx(exact_auroc, abs=auroc_tolerance)
    fg, bg = hist.double()
    assert abs(auroc - exact_auroc) <= (fg @ bg / (2 * fg.sum() * bg.sum())).item()
    ap = functional.average_precision_from_histogram(hist).item()
    assert ap == pytest.approx(average_precision_score(truth, scores), abs=ap_tolerance)


def test_ranking_scores_in_closed_form() -> None:
    # Descending: one foreground pixel, a tie of one of each, one background pixel.
    hist = torch.tensor([[0, 1, 1], [1, 1, 0]])
    assert functional.auroc_from_histogram(hist).item() == (2 + 1.5) / 4
    assert functional.average_precision_from_histogram(hist).item() == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3, abs=1e-15
    )
    perfect = torch.tensor([[0, 5], [7, 0]])
    assert functional.auroc_from_histogram(perfect).item() == 1
    assert functional.average_precision_from_histogram(perfect).item() == 1


def test_ranking_scores_of_very_many_pixels() -> None:
    # 10^11 pixels of each class: the product of the two counts does not fit int64.
    many = 10**11
    hist = torch.tensor([[many, 3 * many], [3 * many, many]])
    assert functional.auroc_from_histogram(hist).item() == pytest.approx((9 + 3) / 16, abs=1e-15)
    assert functional.average_precision_from_histogram(hist).item() == pytest.approx(
        0.75 * 0.75 + 0.25 * 0.5, abs=1e-15
    )


@pytest.mark.parametrize(
    ("hist", "ap"),
    [([[3, 4], [0, 0]], 1.0), ([[0, 0], [3, 4]], math.nan), ([[0, 0], [0, 0]], math.nan)],
    ids=["foreground only", "background only", "nothing"],
)
def test_ranking_scores_of_a_single_class(hist: list[list[int]], ap: float) -> None:
    assert math.isnan(functional.auroc_from_histogram(torch.tensor(hist)).item())
    result = functional.average_precision_from_histogram(torch.tensor(hist)).item()
    assert result == pytest.approx(ap, nan_ok=True)


# Dtypes, devices and layouts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_of_any_dtype(dtype: torch.dtype, device: str) -> None:
    probs, mask = random_case(5)
    probs = probs.to(dtype)
    wide = probs.float()  # exact for all but float64, which came from float32
    counts = functional.confusion_counts(probs.to(device), mask.to(device)).cpu()
    assert torch.equal(counts, functional.confusion_counts(wide, mask))
    hist = functional.probability_histogram(probs.to(device), mask.to(device)).cpu()
    expected = functional.probability_histogram(wide, mask)
    if dtype == torch.float64:  # rounding may move a probability that lies on an edge
        assert int((hist - expected).abs().sum()) <= 4
    else:
        assert torch.equal(hist, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_masks_of_any_dtype(dtype: torch.dtype, device: str) -> None:
    probs, mask = (tensor.to(device) for tensor in random_case(6))
    for function in (functional.confusion_counts, functional.probability_histogram):
        assert torch.equal(function(probs, mask.to(dtype)), function(probs, mask))


def test_views_and_gradients() -> None:
    probs, mask = random_case(7)
    softmax = torch.stack([1 - probs, probs], dim=1).requires_grad_()  # (B, 2, H, W)
    for function in (functional.confusion_counts, functional.probability_histogram):
        assert torch.equal(function(softmax[:, 1], mask), function(probs, mask))
        assert torch.equal(function(probs.mT, mask.mT), function(probs, mask))
    assert torch.equal(softmax[:, 1], probs)  # nothing was changed in place


# What is refused


@pytest.mark.parametrize(
    "function", [functional.confusion_counts, functional.probability_histogram]
)
@pytest.mark.parametrize(
    ("probs", "mask", "message"),
    [
        (torch.full((1, 2, 2), 1.5), torch.zeros(1, 2, 2), "mask must be bool or integer"),
        (torch.full((1, 2, 2), 1.001), torch.zeros(1, 2, 2).bool(), "from 1.001 to 1.001; logits"),
        (torch.tensor([[[0.5, -1e-6]]]), torch.zeros(1, 1, 2).bool(), r"in \[0, 1\]"),
        (torch.tensor([[[0.5, math.nan]]]), torch.zeros(1, 1, 2).bool(), "not NaN"),
        (torch.tensor([[[0.5, math.inf]]]), torch.zeros(1, 1, 2).bool(), "to inf"),
        (torch.zeros(1, 2, 2), torch.full((1, 2, 2), 255), "mask must hold only 0 and 1"),
        (torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1), "mask must hold only 0 and 1"),
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).bool(), "probs must be floating point"),
        (torch.zeros(2, 2), torch.zeros(2, 2).bool(), r"shape \(B, H, W\)"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).bool(), r"\(1, 1, 2, 2\) and \(1, 2, 2\)"),
        (torch.zeros(0, 2, 2), torch.zeros(0, 2, 2).bool(), "no pixel"),
    ],
)
def test_refused_pixels(
    function: Callable[[Tensor, Tensor], Tensor], probs: Tensor, mask: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        function(probs, mask)
    assert "\n" not in str(error.value)


def test_refused_arguments() -> None:
    probs, mask = random_case(8)
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="threshold must be in"):
            functional.confusion_counts(probs, mask, threshold)
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        functional.probability_histogram(probs, mask, bins=1)
    for score in [*SCORES, functional.mean_iou]:
        with pytest.raises(ValueError, match=r"\(\.\.\., 4\), got \(3,\)"):
            score(torch.zeros(3, dtype=torch.int64))
    for ranking in (functional.auroc_from_histogram, functional.average_precision_from_histogram):
        with pytest.raises(ValueError, match=r"\(2, bins\), got \(3, 8\)"):
            ranking(torch.zeros(3, 8, dtype=torch.int64))
