"""Accumulation and sharing of states."""

import math
import pickle
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from segmentation.metrics import (
    AUROC,
    F1,
    AveragePrecision,
    ImageF1,
    ImageIoU,
    ImageMeanIoU,
    IoU,
    MeanIoU,
    Precision,
    Recall,
    functional,
    pixel_metrics,
)

KEYS = {
    *("iou", "f1", "precision", "recall", "mean_iou"),
    *("image_iou", "image_f1", "auroc", "average_precision"),
}
THRESHOLDED: list[type[Metric]] = [
    IoU,
    F1,
    Precision,
    Recall,
    MeanIoU,
    ImageIoU,
    ImageF1,
    ImageMeanIoU,
]
RANKING: list[type[Metric]] = [AUROC, AveragePrecision]

Sample = tuple[Tensor, Tensor]


def make_samples() -> list[Sample]:
    """13 images of different sizes, probabilities and masks (1, H, W); one is empty in both."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(13):
        shape = (1, 11 + 3 * i, 40 - 2 * i)
        mask = torch.rand(shape, generator=generator) < 0.05 * i
        logits = 3 * torch.randn(shape, generator=generator) + 3.0 * mask - 2
        samples.append((logits.sigmoid(), mask))
    samples[0] = (samples[0][0] / 2.5, samples[0][1])
    return samples


def make_metrics() -> MetricCollection:
    """All ten scores: those that are logged and the one that is not."""
    metrics = pixel_metrics()
    metrics.add_metrics({"image_mean_iou": ImageMeanIoU()})
    return metrics


def run(metrics: Any, samples: list[Sample]) -> dict[str, float]:
    for probs, mask in samples:
        metrics.update(probs, mask)
    return {name: value.item() for name, value in metrics.compute().items()}


def expected_values(samples: list[Sample]) -> dict[str, float]:
    """From the definitions: concatenated pixels and means over images, empty images counting 1."""
    probs = torch.cat([p.flatten() for p, _ in samples])
    mask = torch.cat([m.flatten() for _, m in samples])
    predicted = probs > 0.5

    def iou(a: Tensor, b: Tensor) -> float:
        return int((a & b).sum()) / int((a | b).sum()) if (a | b).any() else 1.0

    def f1(a: Tensor, b: Tensor) -> float:
        return 2 * int((a & b).sum()) / int(a.sum() + b.sum()) if (a | b).any() else 1.0

    images = [(p > 0.5, m) for p, m in samples]
    return {
        "iou": iou(predicted, mask),
        "f1": f1(predicted, mask),
        "precision": int((predicted & mask).sum()) / int(predicted.sum()),
        "recall": int((predicted & mask).sum()) / int(mask.sum()),
        "mean_iou": (iou(predicted, mask) + iou(~predicted, ~mask)) / 2,
        "image_iou": sum(iou(p, m) for p, m in images) / len(images),
        "image_f1": sum(f1(p, m) for p, m in images) / len(images),
        "image_mean_iou": sum(iou(p, m) + iou(~p, ~m) for p, m in images) / 2 / len(images),
        "auroc": float(roc_auc_score(mask, probs)),
        "average_precision": float(average_precision_score(mask, probs)),
    }


def check_values(result: dict[str, float], expected: dict[str, float]) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-3 if name in ("auroc", "average_precision") else 1e-12
        assert result[name] == pytest.approx(value, abs=tolerance), name


# Accumulation


def test_values_over_images_of_different_sizes() -> None:
    samples = make_samples()
    assert not (samples[0][0] > 0.5).any() and not samples[0][1].any()
    check_values(run(make_metrics(), samples), expected_values(samples))


def test_batches_count_images_not_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand((5, 8, 8), generator=generator)
    mask = torch.rand((5, 8, 8), generator=generator) < 0.4
    batches = run(make_metrics(), [(probs[:3], mask[:3]), (probs[3:], mask[3:])])
    singly = run(make_metrics(), [(probs[i : i + 1], mask[i : i + 1]) for i in range(5)])
    assert batches == singly


def test_order_of_images_does_not_matter() -> None:
    assert run(make_metrics(), make_samples()[::-1]) == run(make_metrics(), make_samples())


def test_names_prefix_clones_and_reset() -> None:
    samples = make_samples()
    metrics = pixel_metrics()
    assert set(metrics.keys()) == KEYS
    val, test = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
    first = run(val, samples[:4])
    assert set(first) == {f"val/{key}" for key in KEYS}
    # Clones and original have nothing in common.
    assert run(test, samples[4:])["test/iou"] != first["val/iou"]
    assert all(not metric.update_called for metric in metrics.values())
    val.reset()
    assert run(val, samples[:4]) == first


def test_forward_gives_the_batch_and_accumulates() -> None:
    samples = make_samples()
    metrics, plain = make_metrics(), make_metrics()
    for probs, mask in samples:
        batch = metrics(probs, mask)
        single = make_metrics()
        single.update(probs, mask)
        assert batch["iou"] == single.compute()["iou"]
    for probs, mask in samples:
        plain.update(probs, mask)
    expected = plain.compute()
    assert all(torch.equal(value, expected[name]) for name, value in metrics.compute().items())


def test_threshold_is_passed_on() -> None:
    probs, mask = make_samples()[5]
    metrics = pixel_metrics(0.2)
    metrics.update(probs, mask)
    counts = functional.confusion_counts(probs, mask, 0.2)
    assert metrics.compute()["iou"] == functional.iou(counts.sum(0))
    assert metrics.compute()["image_f1"].item() == pytest.approx(functional.f1(counts).item())
    for metric in THRESHOLDED:
        with pytest.raises(ValueError, match="threshold must be in"):
            metric(threshold=1.5)
    for ranking in RANKING:
        with pytest.raises(ValueError, match="bins must be at least 2"):
            ranking(bins=1)


def test_refused_images_leave_the_state_alone() -> None:
    samples = make_samples()
    metrics = make_metrics()
    expected = run(metrics, samples[:3])
    with pytest.raises(ValueError, match="logits need a sigmoid"):
        metrics.update(torch.full((1, 4, 4), 2.0), torch.zeros((1, 4, 4), dtype=torch.bool))
    assert {name: value.item() for name, value in metrics.compute().items()} == expected


@pytest.mark.parametrize("metric", [*THRESHOLDED, *RANKING])
def test_no_image_is_no_score(metric: type[Metric]) -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(metric().compute().item())


@pytest.mark.parametrize("metric", [*THRESHOLDED, *RANKING])
def test_properties_and_pickle(metric: type[Metric]) -> None:
    probs, mask = make_samples()[7]
    original = metric()
    assert original.higher_is_better is True
    assert original.is_differentiable is False
    assert original.full_state_update is False
    original.update(probs, mask)
    copy = pickle.loads(pickle.dumps(original))
    assert copy.compute() == original.compute()
    assert copy.compute().dtype == torch.float64
    assert original.state_dict() == {}  # scores are no part of a checkpoint


# Sharing of states in a collection


def test_three_compute_groups() -> None:
    metrics = make_metrics()
    run(metrics, make_samples())
    groups = {frozenset(names) for names in metrics.compute_groups.values()}
    assert groups == {
        frozenset({"iou", "f1", "precision", "recall", "mean_iou"}),
        frozenset({"image_iou", "image_f1", "image_mean_iou"}),
        frozenset({"auroc", "average_precision"}),
    }


def test_one_pass_over_the_pixels_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("confusion_counts", "probability_histogram"):
        function = getattr(functional, name)

        def counted(*args: Any, name: str = name, function: Any = function) -> Tensor:
            calls.append(name)
            result: Tensor = function(*args)
            return result

        monkeypatch.setattr(functional, name, counted)
    metrics = pixel_metrics()
    metrics.update(*make_samples()[5])  # the first update finds the groups
    calls.clear()
    metrics.update(*make_samples()[6])
    assert sorted(calls) == ["confusion_counts"] * 2 + ["probability_histogram"]


def test_a_first_image_without_information_merges_nothing() -> None:
    """Equal states after the first update must not tie different metrics together."""
    metrics = MetricCollection(
        {
            **{
                f"{kind.__name__}_{t}": kind(threshold=t / 10)
                for kind in THRESHOLDED
                for t in (3, 5, 7)
            },
            **{f"{kind.__name__}_{n}": kind(bins=n) for kind in RANKING for n in (64, 1024)},
        }
    )
    black = (torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool))
    samples = [black, *make_samples()]
    for probs, mask in samples:
        metrics.update(probs, mask)
    assert len(metrics.compute_groups) == 2 * 3 + 2
    alone = {name: metric.clone() for name, metric in metrics.items()}
    for metric in alone.values():
        metric.reset()
        for probs, mask in samples:
            metric.update(probs, mask)
    result = metrics.compute()
    assert all(torch.equal(result[name], metric.compute()) for name, metric in alone.items())
    assert len({value.item() for value in result.values()}) == len(result)


@pytest.mark.parametrize(
    "cast",
    [
        lambda metrics: metrics.half(),
        lambda metrics: metrics.to(torch.float16),
        lambda metrics: metrics.type(torch.float16),
        lambda metrics: metrics.set_dtype(torch.float16),
        lambda metrics: torch.nn.ModuleDict({"metrics": metrics}).half(),
        lambda metrics: torch.nn.ModuleDict({"metrics": metrics}).to(torch.bfloat16),
        lambda metrics: torch.nn.ModuleDict({"metrics": metrics}).type(torch.float16),
    ],
    ids=["half", "to", "type", "set_dtype", "parent half", "parent to", "parent type"],
)
def test_casting_a_model_leaves_the_counts_alone(cast: Any) -> None:
    samples = make_samples()
    metrics = make_metrics()
    run(metrics, samples[:6])
    cast(metrics)
    assert run(metrics, samples[6:]) == run(make_metrics(), samples)
    for metric in metrics.values():
        assert all(torch.as_tensor(s).dtype == torch.int64 for s in metric.metric_state.values())
    metrics.reset()
    assert run(metrics, samples) == run(make_metrics(), samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_and_cpu_agree() -> None:
    samples = make_samples()
    on_gpu = run(make_metrics().to("cuda"), [(p.cuda(), m.cuda()) for p, m in samples])
    assert on_gpu == pytest.approx(run(make_metrics(), samples), abs=1e-12)
