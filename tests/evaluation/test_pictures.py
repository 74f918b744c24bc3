"""Pictures of objects: each colour where it belongs, on label maps drawn by hand."""

import numpy as np
import pytest

from segmentation.evaluation.overlays import UNKNOWN
from segmentation.evaluation.pictures import OF_KINDS, OF_PIXELS, Picture, legend
from segmentation.metrics.counts import KINDS, image_counts, object_kinds, overlaps

# A letter is an object. M holds c and d; P and Q lie in e; of the others A alone is in its place.
TRUE = "aaaa.bbbb......ccccdddd.eeeeeee"
FOUND = "AAA........XXX.MMMMMMMMMPPP.QQQ"
WANTED = dict(a="found", b="missed", c="merged", d="merged", e="split") | dict(
    A="found", X="false", M="merged", P="split", Q="split"
)
SIDE = 12  # pixels of a letter


def maps() -> list[np.ndarray]:
    lines = [np.array([ord(c) % 32 if c != "." else 0 for c in some]) for some in (TRUE, FOUND)]
    return [np.tile(line.repeat(SIDE), (SIDE, 1)).astype(np.int32) for line in lines]


def colours_of(panel: np.ndarray, letter: str) -> set[tuple[int, ...]]:
    """All colours where an object is."""
    line = TRUE if letter.islower() else FOUND
    start, count = line.index(letter) * SIDE, line.count(letter) * SIDE
    return {tuple(c) for c in panel[:SIDE, start : start + count].reshape(-1, 3).tolist()}


def test_the_kinds_of_objects_in_closed_form() -> None:
    truth, found = maps()
    kinds = object_kinds(overlaps(truth, found))
    for line, of_each in zip((TRUE, FOUND), kinds, strict=True):
        letters = sorted(set(line) - {"."})
        named = dict(zip(letters, (KINDS[k] for k in of_each), strict=True))
        assert named == {letter: WANTED[letter] for letter in letters}
    counts = dict(zip(KINDS, image_counts(truth, found, found > 0, True)[-5:], strict=True))
    assert counts == {"found": 1, "missed": 1, "false": 1, "merged": 2, "split": 1}


def test_what_matches_is_found_and_every_true_object_has_one_kind() -> None:
    """As many are found as the scores count at an IoU of .5, on maps of many random blocks."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        some = rng.integers(0, 9, (2, 9, 9)).repeat(3, 1).repeat(3, 2)
        row = image_counts(some[0], some[1], some[1] > 0, boundary=True)
        found, missed, _false, merged, split = row[-5:]
        assert found == row[4] and found + missed + merged + split == row[14]


@pytest.mark.parametrize("gray", [0, 250])
def test_tints_on_dark_images_and_outlines_on_bright_ones(gray: int) -> None:
    truth, found = maps()
    image = np.full((*truth.shape, 1), gray, np.uint8)
    picture = Picture(image, truth, found).overlay()
    width = truth.shape[1]
    plain, panel = picture[:, :width], picture[:, width + 4 :]
    assert (plain[:SIDE] == gray).all()
    for letter, kind in WANTED.items():
        assert OF_KINDS[kind][1] in colours_of(panel, letter), letter
    inside = panel[SIDE // 2, FOUND.index("X") * SIDE + 18]
    wanted = np.array(OF_KINDS["false"][1]) * 0.35 if gray == 0 else np.full(3, gray)
    assert np.abs(inside - wanted).max() <= 0.5
    legend_strip = {tuple(c) for c in picture[SIDE:].reshape(-1, 3).tolist()}
    assert {colour for _, colour in OF_KINDS.values()} <= legend_strip


def test_colours_of_pixels_on_request() -> None:
    truth, found = maps()
    shown = Picture(np.zeros((*truth.shape, 1), np.uint8), truth, found, colours="pixels")
    panel = shown.overlay()[:, truth.shape[1] + 4 :]
    half = {name: tuple(round(c / 2) for c in rgb) for name, (_, rgb) in OF_PIXELS.items()}
    assert colours_of(panel, "A") == {half["right"]} and colours_of(panel, "b") == {half["missed"]}
    assert colours_of(panel, "X") == {half["too much"]}
    assert set(shown.layers()["truth"][1]) == {1}


def test_what_is_not_annotated_is_hatched_and_counts_nowhere() -> None:
    truth, found = maps()
    truth[truth == ord("b") % 32] = -1
    truth[:, FOUND.index("X") * SIDE :][:, : 3 * SIDE] = -1
    picture = Picture(np.zeros((*truth.shape, 3), np.uint8), truth, found)
    assert picture.kinds()[2] == [1, 0, 0, 2, 1]
    panel = picture.overlay()[:, truth.shape[1] + 4 :]
    assert colours_of(panel, "X") == {UNKNOWN, (0, 0, 0)}
    values, names = picture.layers()["truth"]
    assert names[255] == "not annotated" and (values[truth < 0] == 255).all()


def test_layers_by_kind_and_by_class() -> None:
    truth, found = maps()
    classes = (np.arange(32) % 2 + 1).astype(np.uint8)
    classes[0] = 0
    picture = Picture(np.zeros((*truth.shape, 1), np.uint8), truth, found, (classes, classes))
    layers = picture.layers(["even", "odd"])
    assert [*layers] == ["prediction", "truth", "true classes", "predicted classes"]
    assert layers["prediction"][1] == dict(enumerate(KINDS, start=1))
    np.testing.assert_array_equal(layers["true classes"][0], classes[truth])
    assert picture.overlay().shape[1] == 4 * truth.shape[1] + 3 * 4


def test_a_legend_names_colours_and_large_images_are_made_smaller() -> None:
    assert legend()[0] == ("found", "blue", "#0072b2")
    image = np.zeros((30, 900, 3), np.uint8)
    empty = np.zeros((30, 900), np.int32)
    assert Picture(image, empty, empty).overlay(300).shape[1] == 2 * 300 + 4
