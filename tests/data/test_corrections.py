"""Corrections: what they do to samples, when the cache notices, and how bad files are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.corrections import Corrected, read_corrections, union
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from tests.errors import refuses
from tests.evaluation.audit.listed import Listed, block, noise, sample

Write = Callable[[str], Path]
MASKS = {"1_17": block(2, 2, 4, 4), "1_18": block(4, 4, 4, 4), "2_1": block(9, 9, 3, 3)}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(text: str) -> Path:
        (tmp_path / "corrections.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "corrections.yaml"

    return writer


@pytest.fixture
def source() -> Listed:
    return Listed(*(sample(name, noise(i), MASKS[name]) for i, name in enumerate(MASKS)))


def samples(source: Listed, path: Path, cache: Path) -> dict[str, Sample]:
    return {one.id: one for one in decoded(Corrected(source, path), cache)}


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "drop:\nprefer:\nmerge:\n", "drop: []\nprefer: {}\nmerge: []"]
)
def test_nothing_to_correct(text: str, write: Write, source: Listed, tmp_path: Path) -> None:
    corrected = Corrected(source, write(text))
    assert corrected.index() == source.index()  # also the stamps: the cache is used again
    assert (corrected.name, corrected.version) == (source.name, source.version)
    assert decoded(corrected, tmp_path).folder == decoded(source, tmp_path).folder


def test_dropped_preferred_and_merged(write: Write, source: Listed, tmp_path: Path) -> None:
    text = "drop: [1_17]\nprefer: {1_18: 1_17}"  # the mask of one that is dropped
    found = samples(source, write(text), tmp_path)
    assert list(found) == ["1_18", "2_1"]
    np.testing.assert_array_equal(found["1_18"].labels, MASKS["1_17"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["1_18"].image, source.samples["1_18"].image)
    np.testing.assert_array_equal(found["2_1"].labels, MASKS["2_1"])  # type: ignore[arg-type]

    found = samples(source, write("merge:\n- [1_17, 1_18, 2_1]"), tmp_path)
    wanted = sum(MASKS.values()) > 0
    for one in found.values():
        np.testing.assert_array_equal(one.labels > 0, wanted)  # type: ignore[operator]
        assert one.labels is not None and one.labels.max() == 3


def test_the_cache_follows_the_file_and_the_other_masks(
    write: Write, source: Listed, tmp_path: Path
) -> None:
    stamps = {}
    for text in ("", "prefer: {1_17: 1_18}", "prefer: {1_17: 2_1}", "merge: [[1_17, 1_18]]"):
        records = {r.id: r for r in Corrected(source, write(text)).index()}
        stamps[text] = records["1_17"].stamp
        assert records["2_1"] == source.index()[2]
    assert len(set(stamps.values())) == 4
    corrected = Corrected(source, write("prefer: {1_17: 1_18}"))
    assert corrected.index()[0].masks == ("1_18_mask.png",)
    source.samples["1_18"] = sample("1_18", noise(7), MASKS["2_1"])
    assert corrected.index()[0].stamp != stamps["prefer: {1_17: 1_18}"]


def test_the_kind_goes_with_the_mask(write: Write) -> None:
    none = Sample("a", noise(0)[..., None], np.zeros((48, 64), np.int32), kind="empty")
    some = Sample("b", noise(1)[..., None], MASKS["2_1"], kind="nerve")
    for text, kinds in (
        ("prefer: {a: b}", ["nerve", "nerve"]),
        ("prefer: {b: a}", ["empty", "empty"]),
        ("merge: [[a, b]]", ["nerve", "nerve"]),
    ):
        corrected = Corrected(Listed(none, some), write(text))
        assert [corrected.read(record).kind for record in corrected.index()] == kinds


def test_union_of_instances() -> None:
    first, second = np.zeros((2, 10, 20), np.int32)
    first[1:5, 1:5], first[1:5, 10:14] = 1, 2
    second[2:6, 1:5] = 1  # most of it in first's 1
    second[3:5, 12:17] = 2  # 4 of its 10 pixels in first's 2
    second[8:10, 0:3] = 3
    found = union(first, second)
    np.testing.assert_array_equal(found > 0, (first > 0) | (second > 0))
    np.testing.assert_array_equal(found == 1, (first == 1) | (second == 1))
    np.testing.assert_array_equal(found == 2, first == 2)
    np.testing.assert_array_equal(found == 3, (second == 2) & (first == 0))
    np.testing.assert_array_equal(found == 4, second == 3)
    assert found.dtype == np.int32


def test_what_one_of_them_annotates_is_annotated() -> None:
    first, second = np.array([[5, 5, 0, -1, -1, -1]]), np.array([[-1, 2, -1, 2, 0, -1]])
    assert union(first, second).tolist() == [[1, 1, 0, 2, 0, -1]]


def test_union_of_random_maps() -> None:
    for seed in range(20):
        first, second = np.random.default_rng(seed).integers(0, 6, (2, 8, 9)).astype(np.int32)
        found = union(first, second)
        np.testing.assert_array_equal(found > 0, (first > 0) | (second > 0))
        for number in np.unique(first[first > 0]):  # an object of the first stays one
            assert len(np.unique(found[first == number])) == 1
        assert np.union1d(0, found).tolist() == list(range(found.max() + 1))


BAD = {
    "[a, b]": "drop, prefer, merge",
    "drop: a": "drop: a",
    "drop: {a: b}": "drop: {'a': 'b'}",
    "drop: [a, '']": "drop: ['a', '']",
    "dropped: [a]": "'dropped'",
    "prefer: [a, b]": "prefer: ['a', 'b']",
    "prefer: {a: [b, c]}": "prefer: {'a': ['b', 'c']}",
    "prefer: {a: a}": "a changes nothing",
    "prefer: {a: b, a: c}": "a is there twice",
    "drop: [a]\ndrop: [b]": "drop is there twice",
    "prefer: {a: b, b: c}": "b takes a mask that is itself replaced",
    "prefer: {a: b}\nmerge: [[b, c]]": "b takes a mask that is itself replaced",
    "prefer: {a: b}\nmerge: [[a, c]]": "a is given two masks",
    "merge: [[a, b], [b, c]]": "b is given two masks",
    "merge: [a, b]": "merge: ['a', 'b']",
    "merge: [[a]]": "merge: [['a']]",
    "merge: [[a, b, a]]": "merge: [['a', 'b', 'a']]",
    "drop: [a]\nprefer: {a: b}": "a is dropped",
    "drop: [a, b]\nmerge: [[a, b]]": "a is dropped",
    "drop: [a": "line 1",
    "drop:\n\t- a": "line 2",
    "drop: *a": "line 1",
    "drop: [" * 5000: "cannot be read",
    "drop: [\x07]": "cannot be read",
}


@pytest.mark.parametrize(("text", "says"), BAD.items())
def test_bad_files_are_refused_in_one_line(text: str, says: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(UserError) as caught:
        read_corrections(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and says in line and "\n" not in line and len(line) < 400


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("drop: [é]".encode("latin-1"))
    for name in ("absent", "latin", ""):
        refuses(r"cannot be read|UTF-8", read_corrections, tmp_path / name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drop: [1_17, 117]", "no sample '117' (one is called '1_17')"),
        ("prefer: {x: 1_17}", "'x'"),
        ("prefer: {1_17: x}", "'x'"),
        ("merge: [[1_17, x]]", "'x'"),
        ("drop: [1_17, 1_18, 2_1]", "drop leaves no sample"),
    ],
)
def test_what_the_dataset_lacks(text: str, says: str, write: Write, source: Listed) -> None:
    path = write(text)
    with pytest.raises(UserError) as caught:
        Corrected(source, path).index()
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_masks_that_do_not_fit(write: Write) -> None:
    source = Listed(
        sample("a", noise(0), MASKS["2_1"]),
        sample("b", noise(0, (40, 64)), block(1, 1, 2, 2, (40, 64))),
        sample("c", noise(0), None),
    )
    for text, says in (
        ("prefer: {a: b}", "a should get the mask of b, which is 40×64 (H×W)"),
        ("merge: [[a, b]]", "a should get the mask of b"),
        ("prefer: {a: c}", "the mask of c, which has none"),
    ):
        corrected = Corrected(source, write(text))
        record = corrected.index()[0]
        with pytest.raises(UserError) as caught:
            corrected.read(record)
        assert says in str(caught.value) and str(corrected.path) in str(caught.value)
    found = Corrected(source, write("prefer: {c: a}"))  # a mask for an image that has none
    assert found.read(found.index()[2]).labels is not None
