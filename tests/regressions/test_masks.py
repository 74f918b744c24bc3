"""What masks mean is looked at: what cannot be right is refused, what is unlikely is told."""

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segmentation.data.masks import MaskFacts, cautions, facts_of, judge, why_not_binary
from segmentation.errors import UserError
from segmentation.io.images import read_mask
from tests.regressions.conftest import Result, picture, write_pairs, write_png

LABELS = "--data.mask_type=labels"


def binary(labels: np.ndarray) -> np.ndarray:
    return (labels > 0) * np.uint8(255)


def classes(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8)


def ignored(labels: np.ndarray) -> np.ndarray:
    mask = labels.astype(np.uint8)
    mask[-20:] = 255
    return mask


def inverted(labels: np.ndarray) -> np.ndarray:
    return 255 - binary(labels)


def jpeg(labels: np.ndarray) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(binary(labels)).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def resized(labels: np.ndarray) -> np.ndarray:
    return cv2.resize(labels.astype(np.uint16), None, fx=1.5, fy=1.5)


def wrapped(labels: np.ndarray) -> np.ndarray:
    squares = np.arange(300).reshape(15, 20)
    large = np.kron(squares, np.pad(np.ones((3, 3), int), 1)) + np.kron(
        np.ones((15, 20), int), np.pad(np.ones((3, 3), int), 1)
    )
    return (large % 256).astype(np.uint8)


def told(mask: Callable[[np.ndarray], np.ndarray], ids: bool = True) -> list[tuple[str, bool]]:
    """Doubts about eight masks, and whether they are refused."""
    masks = {f"im{seed}": facts_of(mask(picture(seed)[1]), ids) for seed in range(8)}
    return [(one.doubt, one.refused) for one in judge(masks)]


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (lambda labels: labels, []),
        (lambda labels: labels * 37, []),  # numbers of any size
        (binary, [("reused_ids", True)]),
        (classes, [("classes", True)]),
        (lambda labels: classes(labels) * 127, [("classes", True)]),
        (ignored, [("classes", True)]),
        (jpeg, [("smooth", True)]),
        (lambda labels: cv2.GaussianBlur(binary(labels), (0, 0), 1), [("smooth", True)]),
        (resized, [("smooth", True)]),
        (wrapped, [("reused_ids", True)]),
        (lambda labels: labels + 1, [("no_background", True)]),
        (inverted, [("inverted", False)]),
        (lambda labels: np.minimum(labels, 2), [("classes", True)]),
        (lambda labels: np.where(labels > 2, 0, labels), [("classes", False)]),
    ],
)
def test_values_that_are_to_be_ids(
    mask: Callable[[np.ndarray], np.ndarray], wanted: list[tuple[str, bool]]
) -> None:
    assert told(mask) == wanted


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (binary, []),
        (lambda labels: labels > 3, []),
        (lambda labels: labels * 0, []),  # of a whole data set it is told, see below
        (lambda labels: binary(labels) // 255, []),
        (lambda labels: np.full_like(labels, 255), [("no_background", True)]),
        (inverted, [("inverted", False)]),
    ],
)
def test_values_of_binary_masks(
    mask: Callable[[np.ndarray], np.ndarray], wanted: list[tuple[str, bool]]
) -> None:
    assert told(lambda labels: mask(labels).astype(np.uint8), ids=False) == wanted


def test_a_few_odd_objects_are_no_doubt() -> None:
    """As in real label maps: objects in pieces, specks, a mask without objects, ids of others."""
    masks: dict[str, MaskFacts] = {}
    for seed in range(20):
        labels = picture(seed)[1]
        labels[40:42, :20] = 0  # cuts an object
        labels[0, 0], labels[95, 95] = 3, 5  # specks
        masks[f"im{seed}"] = facts_of(labels * 30 % 251, ids=True)
    masks["none"] = facts_of(np.zeros((9, 9), np.uint8), ids=True)
    masks["one"] = facts_of(binary(picture(1, count=1)[1]), ids=True)
    assert judge(masks) == []
    for mask in (binary(picture(1)[1]), jpeg(picture(1)[1])):  # but a single one of another kind
        (found,) = judge(masks | {"odd": facts_of(mask, ids=True)})
        assert not found.refused and found.text.startswith("odd: ")


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (picture(0)[1], r"holds 8 \(1, 2, 3, 4, …\); set mask_type: labels if each is one object"),
        (classes(picture(0)[1]), r"holds 2 \(1, 2\): classes\? .* save 0 and 255 of the one"),
        (ignored(picture(0)[1]), r"is 255 what is not annotated\? Set data\.ignore to it"),
        (1 + binary(picture(0)[1]) // 255, r"holds 2 \(1, 2\), and no pixel is 0; save the back"),
        (jpeg(picture(0)[1]), "values that change from pixel to pixel: .* once a JPEG"),
    ],
)
def test_no_hint_leads_into_another_mistake(mask: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=says):
        raise UserError(why_not_binary(facts_of(mask)))
    assert ("labels" in why_not_binary(facts_of(mask))) == ("labels" in says)


def test_what_is_allowed() -> None:
    found = judge({"im0": facts_of(binary(picture(0)[1]), ids=True)})
    with pytest.raises(UserError, match=r"^im0: 8 separate regions .* Set mask_type: binary.*If"):
        cautions(found, ["inverted"], "allow {}")
    (line,) = cautions(found, ["reused_ids"], "allow {}")
    assert line.startswith("im0: 8 separate regions under 1 value(s) (255)")
    found = judge({"im0": facts_of(inverted(picture(0)[1]))})
    (line,) = cautions(found, [], "allow {}")
    assert line.endswith("If this is intended, allow inverted")
    assert cautions(found, ["inverted"], "allow {}") == []


@pytest.mark.parametrize("colour", [0, 255])
def test_masks_in_alpha_are_refused(colour: int, tmp_path: Path) -> None:
    mask = binary(picture(0)[1])
    shown = np.full((*mask.shape, 3), colour, np.uint8)
    write_png(tmp_path / "a.png", np.dstack([shown, mask]))
    with pytest.raises(UserError, match=r"a\.png: .*alpha varies: is the mask in alpha\? Save it"):
        read_mask(tmp_path / "a.png")
    write_png(tmp_path / "b.png", np.dstack([mask] * 4))
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), mask)
    write_png(tmp_path / "c.png", np.dstack([255 - mask, 255 - mask, 255 - mask, mask]))
    with pytest.raises(UserError, match=r"c\.png: transparent pixels have a value: is the mask in"):
        read_mask(tmp_path / "c.png")


def test_fit_refuses_and_names_the_word(fit: Callable[..., Result], tmp_path: Path) -> None:
    write_pairs(tmp_path / "binary")
    told = fit("binary", LABELS)
    assert told.status == 2 and told.line.endswith("set data.files.allow: [reused_ids]")
    assert "8 separate regions under 1 value(s) (255); a binary mask" in told.line
    write_pairs(tmp_path / "empty", lambda labels: np.zeros(labels.shape, np.uint8))
    told = fit("empty")
    assert told.status == 2 and "none of the 8 mask(s) holds an object" in told.line
    write_pairs(tmp_path / "same")
    shutil.rmtree(tmp_path / "same/images")
    (tmp_path / "same/images").symlink_to("masks")
    told = fit("same")
    assert told.status == 2
    shutil.copytree(tmp_path / "binary/masks", tmp_path / "copy/images")
    shutil.copytree(tmp_path / "binary/masks", tmp_path / "copy/masks")
    told = fit("copy")
    assert told.status == 2 and "im0: the mask is equal to its image (of 8 such)" in told.line


def test_fit_warns_of_inverted_masks(fit: Callable[..., Result], tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", inverted)
    with pytest.warns(UserWarning, match="in 8 of 8 masks one object fills most of the image"):
        assert fit("data").status == 0
    assert fit("data", "--data.files.allow=[inverted]").status == 0


def test_audit_lists_all_doubts(run: Callable[..., Result], tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", inverted)
    (tmp_path / "data/images/im3.png").write_bytes((tmp_path / "data/masks/im3.png").read_bytes())
    told = run("audit", "folder", "--root=data", "--output=out")
    assert told.status == 0
    assert "2  doubts about what the masks mean" in told.text
    page = (tmp_path / "out/audit.html").read_text()
    for text in (told.text, page):
        assert "im3: the mask is equal to its image (of 1 such)" in text
        assert "in 8 of 8 masks one object fills most of the image" in text


def test_evaluate_looks_at_the_truth(run: Callable[..., Result], tmp_path: Path) -> None:
    write_pairs(tmp_path / "classes", classes)
    write_pairs(tmp_path / "empty", lambda labels: np.zeros(labels.shape, np.uint8))
    write_pairs(tmp_path / "binary")
    score = ("evaluate", "--output=out", "--truth")
    told = run(*score, "classes/masks", "--prediction=binary/masks")
    assert told.status == 2 and "classes? Set --labels classes, or save" in told.line
    assert told.line.endswith("say --allow classes")
    told = run(*score, "empty/masks", "--prediction=empty/masks")
    assert told.status == 0 and "caution: none of the 8 mask(s) holds an object" in told.text
    told = run(*score, "binary/masks", "--prediction=binary/masks", "--labels=instances")
    assert told.status == 2 and "whose regions are the objects? Set --labels mask" in (told.line)
    told = run(*score, "binary/masks", "--prediction=binary/masks")
    assert told.status == 0 and "caution: none" not in told.text
    assert "caution: every prediction is equal to its truth" in told.text
    (tmp_path / "binary/images/im3.png").unlink()
    write_pairs(tmp_path / "other", lambda labels: np.uint8(255) * (labels > 1))
    told = run(*score, "binary/masks", "--prediction=other/masks", "--images=binary/images")
    assert told.status == 0 and "equal to its truth" not in told.text
    assert "--images lacks 1 of 8 images (im3, say): Otsu's threshold and" in told.text
