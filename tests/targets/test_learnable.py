"""Where it is known what to learn: whatever lies where nothing was annotated changes nothing."""

import numpy as np
import pytest
from scipy import ndimage

from segmentation.targets import Contour, Distance, Flow, Foreground, StarConvex, Target
from segmentation.targets.border_weights import BorderWeight, class_weights
from tests.targets.test_targets import touching_discs

TARGETS = [
    Foreground(),
    Foreground(gap=2),
    Distance(),
    Flow(),
    StarConvex(rays=8, grid=1),
    *(Contour(width, p) for width in (1, 2, 4) for p in ("straddling", "inner", "outer")),  # type: ignore[arg-type]
]


def partial(rng: np.random.Generator) -> np.ndarray:
    """Discs and thin objects of which a few boxes and scribbles are not annotated."""
    labels = touching_discs()
    labels[60:62, 5:30], labels[58, 70:76] = 7, 8
    for _ in range(6):
        top, left, height, width = rng.integers((0, 0, 3, 3), (110, 110, 40, 40))
        labels[top : top + height, left : left + width] = -1
    return labels


def fillings(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """What may lie there: nothing, what lies beside it, another object, and mixtures."""
    unknown = labels < 0
    beside = labels[tuple(ndimage.distance_transform_edt(unknown, return_indices=True)[1])]
    mixed = np.kron(rng.integers(0, 3, (32, 32)), np.ones((4, 4), int))
    choices = np.stack([np.zeros_like(labels), beside, np.full_like(labels, 9)])
    picked = np.take_along_axis(choices, mixed[None], 0)[0]
    return [np.where(unknown, some, labels) for some in (*choices, picked)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{type(t).__name__}-{vars(t)}"[:60])
def test_what_is_learned_does_not_depend_on_what_is_unknown(target: Target) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        labels = partial(rng)
        known = target.learnable(labels)
        assert known.dtype == bool and not known[labels < 0].any()
        assert known.sum() > 0.75 * (labels >= 0).sum()
        wanted = target.encode(labels.clip(0)).numpy()[..., known]
        for filled in fillings(labels, rng):
            found = target.encode(filled).numpy()[..., known]
            np.testing.assert_allclose(found, wanted, atol=1e-3)  # flows are rounded


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{type(t).__name__}-{vars(t)}"[:60])
def test_all_is_learned_where_all_is_annotated(target: Target) -> None:
    assert target.learnable(touching_discs()).all()


def test_weights_count_annotated_pixels() -> None:
    labels = touching_discs()
    labels[:, 64:] = -1
    weights, known = class_weights(labels), labels >= 0
    np.testing.assert_allclose(weights[known], class_weights(labels[:, :64]).ravel())
    for border in (BorderWeight(), BorderWeight(gap=2), BorderWeight(balance=False)):
        alone = border(labels[:, :64])
        assert not border(labels)[~known].any()
        np.testing.assert_allclose(border(labels)[:, :64], alone, atol=1e-6)
        for dtype in (np.uint8, np.int8, np.int64):
            np.testing.assert_array_equal(border(labels[:, :64].astype(dtype)), alone)
    assert (class_weights(np.where(labels < 0, -1, 0))[known] == 1).all()
