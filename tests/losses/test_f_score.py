"""The weighted F-score against its definition and scikit-learn's F-beta."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score  # type: ignore[import-untyped]  # ships no types

from segmentation.losses import WeightedFScore

G = torch.Generator().manual_seed(1)
LOGITS = torch.randn(2, 1, 7, 5, generator=G) * 2
MASK = (torch.rand(2, 1, 7, 5, generator=G) > 0.7).to(torch.uint8)


@pytest.mark.parametrize(("w", "smooth"), [(1.5, 1.0), (1.5, 0.0), (0.3, 2.0), (1.0, 1.0)])
def test_is_the_published_formula(w: float, smooth: float) -> None:
    p, t = LOGITS.double().sigmoid().numpy(), MASK.numpy()
    precision = ((p * t).sum() + smooth) / (p.sum() + smooth)
    recall = ((p * t).sum() + smooth) / (t.sum() + smooth)
    expected = (1 + w) * precision * recall / (w * precision + recall)
    assert -WeightedFScore(w, smooth)(LOGITS, MASK) == pytest.approx(expected, rel=1e-6)
    assert WeightedFScore(w, smooth)(LOGITS, MASK) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("w", [0.5, 1.0, 1.5])
def test_of_hard_predictions_is_f_beta_with_beta_squared_w(w: float) -> None:
    hard = (LOGITS > 0).float() * 200 - 100
    expected = fbeta_score(MASK.flatten().numpy(), (LOGITS > 0).flatten().numpy(), beta=w**0.5)
    assert -WeightedFScore(w, 0)(hard, MASK) == pytest.approx(expected, rel=1e-6)


def test_w_above_one_weighs_recall_more() -> None:
    truth = torch.zeros(1, 1, 10, 10)
    truth[..., :4] = 1
    more, fewer = (torch.full((1, 1, 10, 10), -50.0) for _ in range(2))
    more[..., :8], fewer[..., :2] = 50, 50  # recall 1, precision ½; precision 1, recall ½
    assert -WeightedFScore(1.5)(more, truth) > -WeightedFScore(1.5)(fewer, truth)
    assert -WeightedFScore(0.5)(more, truth) < -WeightedFScore(0.5)(fewer, truth)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("truth", [0, 1])
def test_where_nothing_is_right_it_is_0_and_has_a_gradient(smooth: float, truth: int) -> None:
    logits = torch.full((1, 1, 8, 8), 200.0 if truth == 0 else -200.0, requires_grad=True)
    loss = WeightedFScore(1.5, smooth)(logits, torch.full((1, 1, 8, 8), truth))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=0.05)
    assert logits.grad is not None and logits.grad.isfinite().all()
    both_empty = torch.full((1, 1, 8, 8), -200.0, requires_grad=True)
    WeightedFScore(1.5, smooth)(both_empty, torch.zeros(1, 1, 8, 8)).backward()
    assert both_empty.grad is not None and both_empty.grad.isfinite().all()


def test_an_empty_batch_is_pushed_down() -> None:
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    WeightedFScore()(logits, torch.zeros(1, 1, 8, 8)).backward()
    assert logits.grad is not None and (logits.grad > 0).all()


def test_weights_of_pixels_count_in_all_sums() -> None:
    weight = torch.ones(2, 7, 5)
    plain = WeightedFScore()(LOGITS, MASK).item()
    assert WeightedFScore()(LOGITS, MASK, weight) == pytest.approx(plain)
    weight[1] = 0
    one = WeightedFScore()(LOGITS[:1], MASK[:1]).item()
    assert WeightedFScore()(LOGITS, MASK, weight) == pytest.approx(one, rel=1e-6)
    twice = WeightedFScore(smooth=0)(LOGITS, MASK, torch.full((2, 7, 5), 2.0))
    assert twice == pytest.approx(WeightedFScore(smooth=0)(LOGITS, MASK).item(), rel=1e-6)


def test_exchanged_precision_and_recall_are_the_inverse_weight() -> None:
    """What the call in nerve-segmentation computed."""
    p, t = LOGITS.double().sigmoid().numpy(), MASK.numpy()
    precision = ((p * t).sum() + 1) / (p.sum() + 1)
    recall = ((p * t).sum() + 1) / (t.sum() + 1)
    published = 2.5 * precision * recall / (1.5 * recall + precision)
    assert -WeightedFScore(1 / 1.5)(LOGITS, MASK) == pytest.approx(published, rel=1e-6)


def test_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = WeightedFScore()(LOGITS.bfloat16(), MASK)
    assert value.dtype == torch.float32
    assert value == pytest.approx(WeightedFScore()(LOGITS.bfloat16().float(), MASK))
    assert np.isfinite(float(value))


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        WeightedFScore()(LOGITS, MASK[:, 0])
    with pytest.raises(ValueError, match="must have the shape"):
        WeightedFScore()(LOGITS, MASK, torch.ones(2, 1, 7, 5))
    for w in (math.inf, math.nan):
        with pytest.raises(ValueError, match=r"loss\.w: "):
            WeightedFScore(w)
    with pytest.raises(ValueError, match=r"loss\.w: 0 must be positive"):
        WeightedFScore(0)
    with pytest.raises(ValueError, match=r"loss\.smooth: -1 must not be negative"):
        WeightedFScore(1, -1)
