"""Images whose objects are bright on dark, dark on bright, or stained."""

import numpy as np
import pytest

from segmentation.experiments.plan.one_kind import OneKind, as_one_kind, one_kind

RNG = np.random.default_rng(0)
LABELS = np.zeros((40, 60), np.int32)
LABELS[5:15, 5:15] = LABELS[25:35, 40:50] = 1
NOTHING = np.zeros_like(LABELS)


def drawn(inside: object, outside: object) -> np.ndarray:
    """(H, W, C) uint8 with noise of a few levels."""
    image = np.where(LABELS[..., None] > 0, inside, outside) + RNG.integers(0, 4, (40, 60, 1))
    return image.astype(np.uint8)


DARK, BRIGHT = drawn([200], [20]), drawn([60], [220])
PINK = drawn((90, 40, 150), (230, 150, 200))


def test_objects_are_bright_whatever_the_background() -> None:
    found = [as_one_kind(image, LABELS) for image in (DARK, BRIGHT, PINK)]
    assert [one.right for one in found] == [True] * 3
    assert found[0].says == "as it is" and found[1].says == "inverted"
    assert found[0].mean == pytest.approx(found[1].mean, abs=0.05) and found[0].mean < 0.2
    assert as_one_kind(DARK, NOTHING).right is None
    assert as_one_kind(DARK, 1 - LABELS).right is False


@pytest.mark.parametrize(
    ("dark", "bright", "mixed"), [(19, 1, True), (1, 19, True), (20, 0, False), (0, 20, False)]
)
def test_a_mixture(dark: int, bright: int, mixed: bool) -> None:
    shown = [as_one_kind(DARK, LABELS)] * dark + [as_one_kind(BRIGHT, LABELS)] * bright
    found = one_kind(shown)
    assert (found.dark, found.bright, found.stained) == (dark, bright, 0)
    assert found.mixed == mixed and found.right == 1
    assert not one_kind(shown + [as_one_kind(BRIGHT, NOTHING)] * 20).mixed or mixed


def test_objects_that_are_not_bright_then_are_no_mixture() -> None:
    """In each kind: crowded ones may take most of an image, which is inverted for that."""
    shown = [as_one_kind(DARK, LABELS)] * 40 + [as_one_kind(BRIGHT, 1 - LABELS)] * 3
    assert one_kind(shown).right == 0 and not one_kind(shown).mixed
    assert OneKind(40, 0, 3, 0.9, 0.2, 0.1).mixed
