"""Two folders scored: numbers, files and refusals."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from segmentation.__main__ import main
from segmentation.evaluation.classical import BASELINES
from segmentation.evaluation.table import groups_in, read_images
from segmentation.io.images import write_image
from tests.evaluation.folders import grid, scored, shifted, truth, write
from tests.helpers import refusal
from tests.pages import check_page

SHIFTS = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2, "f": 3}
IOUS = np.array([1, 1, 5 / 7, 5 / 7, 4 / 8, 3 / 9])


def command(folder: Path, *more: str, **folders: str) -> list[str]:
    """The command on folders of the test's own; to ``out``."""
    folders = {"truth": "t", "prediction": "p", "output": "out"} | folders
    return ["evaluate", *(f"--{key}={folder / name}" for key, name in folders.items()), *more]


def test_scores_in_closed_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth(tmp_path / "t")
    shifted(tmp_path / "p", SHIFTS)
    assert main(command(tmp_path)) == 0
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = report["prediction"]
    assert found["image_iou"] == pytest.approx(IOUS.mean())
    hits = sum(6 - s for s in SHIFTS.values())
    assert found["iou"] == pytest.approx(hits / (72 - hits))
    assert found["ap50"] == pytest.approx(45 / 63)  # of 54 true and 54 predicted squares
    assert found["seg"] == pytest.approx(IOUS[:5].sum() / 6)  # half a square is no majority
    assert found["count_error"] == found["image_abs_count_error"] == 0
    assert found["image_hd95"] == pytest.approx(np.mean(list(SHIFTS.values())))
    assert found["image_boundary_f"] < 1
    assert found.keys() == report["intervals"].keys() == report["images_with"].keys()
    low, high = report["intervals"]["image_iou"]
    half = 1.96 * IOUS.std() / np.sqrt(6)
    assert (low, high) == pytest.approx((IOUS.mean() - half, IOUS.mean() + half), abs=0.06)
    assert report["resampled"]["what"] == "images"
    images = read_images(tmp_path / "out" / "per_image.csv")
    assert images["id"].tolist() == list("abcdef") and groups_in(images) is None
    np.testing.assert_allclose(images["iou"], IOUS, atol=1e-6)
    printed = capsys.readouterr().out
    assert f"image_iou                   {IOUS.mean():.4f}   [{low:.4f}, {high:.4f}]" in printed


def test_page_is_sound_and_stands_alone(tmp_path: Path) -> None:
    names = {"a&<b>": 1, "c": 0}
    write(tmp_path / "t", {name: grid() for name in names})
    shifted(tmp_path / "p", names)
    probs = write(tmp_path / "q", {n: (grid() > 0) * np.uint8(200) for n in names}, ".png")
    images = write(tmp_path / "i", {n: (grid() > 0) * np.uint8(99) for n in names}, ".png")
    scored(tmp_path / "t", tmp_path / "p", tmp_path / "out", probabilities=probs, images=images)
    text = (tmp_path / "out" / "report.html").read_text()
    check_page(text)
    pictures = [ElementTree.fromstring(svg) for svg in re.findall("(?s)<svg.*?</svg>", text)]
    assert len(pictures) > 13
    assert len(re.findall('<img src="data:image/png;base64,', text)) == 4
    assert "a&amp;&lt;b&gt;" in text and "a&<b>" not in text
    assert not re.search(r"<script|<link|(src|href)=.https?:", text)


def test_otsu_stands_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bright squares, one of them too dim for the threshold: it misses a ninth."""
    names = dict.fromkeys("ab", 2)
    truth(tmp_path / "t", "ab")
    shifted(tmp_path / "p", names)
    gray = np.where(grid() > 0, np.uint8(200), np.uint8(10))
    gray[grid() == 9] = 12
    write(tmp_path / "i", dict.fromkeys(names, gray), ".png")
    argv = command(tmp_path, images="i")
    assert main(argv) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out/scores.json").read_text())
    assert report["otsu"]["iou"] == report["otsu"]["ap50"] == pytest.approx(8 / 9)
    assert report["prediction"]["iou"] == pytest.approx(0.5)
    assert report["classical"]["iou"] == report["classical"]["ap50"] == pytest.approx(8 / 9)
    assert re.search(r"\niou +0\.5000 +\[.*\] +0\.8889 +0\.8889\n", printed)
    assert f"classical: {report['classical_by']}" in " ".join(printed.split())
    assert "no truth was looked at" in report["classical_by"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Otsu’s threshold" in page and "0.8889" in page and report["classical_by"][:20] in page
    assert set(read_images(tmp_path / "out/per_image.csv")["method"]) == {"prediction", *BASELINES}
    assert main(["compare", str(tmp_path / "out")]) == 0  # with the baseline, alone
    assert re.search(r"otsu +0\.8889 .*\+0\.3889", capsys.readouterr().out)
    (tmp_path / "i/b.png").unlink()  # not of the same images: left out
    assert main(argv) == 0
    assert "otsu" not in json.loads((tmp_path / "out/scores.json").read_text())
    assert set(read_images(tmp_path / "out/per_image.csv")["method"]) == {"prediction"}


def test_probabilities(tmp_path: Path) -> None:
    """One at .8 where the truth is and 0 elsewhere: right order, off by .2 on the foreground."""
    truth(tmp_path / "t", "ab")
    probs = write(tmp_path / "q", {n: (grid() > 0) * np.uint8(204) for n in "ab"})
    report = scored(tmp_path / "t", tmp_path / "t", tmp_path / "out", probabilities=probs)
    found = report["prediction"]
    share = 9 * 36 / (48 * 60)
    assert found["auroc"] == found["average_precision"] == found["image_auroc"] == 1
    assert found["ece"] == pytest.approx(0.2 * share, abs=1e-6)
    assert report["intervals"]["ece"] == pytest.approx((found["ece"], found["ece"]))
    assert [point["foreground"] for point in report["reliability"]] == [0, 1]


def test_without_any_object(tmp_path: Path) -> None:
    """Empty truth: what has no score is null in the JSON, and everything is written."""
    empty = write(tmp_path / "t", dict.fromkeys("ab", np.zeros((48, 60), np.uint8)))
    probs = write(tmp_path / "q", dict.fromkeys("ab", np.zeros((48, 60), np.uint8)))
    report = scored(empty, empty, tmp_path / "out", probabilities=probs)
    read = json.loads((tmp_path / "out" / "scores.json").read_text(), parse_constant=pytest.fail)
    assert report["prediction"]["image_iou"] == 1
    assert read["prediction"]["auroc"] is None and read["prediction"]["seg"] is None
    assert read["images_with"]["image_seg"] == 0


def test_a_mask_has_components(tmp_path: Path) -> None:
    """Touching objects are one in a mask; the page and the JSON say where objects come from."""
    touching = np.zeros((20, 20), np.uint8)
    touching[4:10, 4:8], touching[4:10, 8:12] = 1, 2
    wanted = write(tmp_path / "t", {"a": touching, "b": touching})
    masks = write(tmp_path / "p", {n: (touching > 0) * np.uint8(255) for n in "ab"}, ".png")
    report = scored(wanted, masks, tmp_path / "out")
    assert report["prediction"]["iou"] == 1 and report["prediction"]["count_error"] == -2
    assert report["objects"]["truth"].startswith("instance ids")
    assert report["objects"]["prediction"].startswith("8-connected components")


def test_groups_are_resampled(tmp_path: Path) -> None:
    """Three films of equal frames: as wide as three images, and said."""
    shifts = {f"{film}/{frame}": k for k, film in enumerate("xyz") for frame in range(8)}
    write(tmp_path / "t", {name: grid() for name in shifts})
    shifted(tmp_path / "p", shifts)
    report = scored(tmp_path / "t", tmp_path / "p", tmp_path / "out")
    assert report["resampled"]["what"] == "groups" and report["resampled"]["how_many"] == 3
    # Each of three is drawn three times with probability 1/27, more than 2.5 %.
    assert report["intervals"]["image_iou"] == pytest.approx((0.5, 1))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "fewer than ten groups" in text


def test_one_film_is_no_sample_of_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its frames are not independent, and there is no other film to resample: that is said."""
    names = {f"film/{i:02}": i % 3 for i in range(12)}
    write(tmp_path / "t", {name: grid() for name in names})
    shifted(tmp_path / "p", names)
    assert main(command(tmp_path)) == 0
    said = "all images are of one group (film) and resemble each other: the intervals are too"
    assert f"caution: {said}" in capsys.readouterr().out
    page = (tmp_path / "out/report.html").read_text()
    assert f'<p class="bad">A{said[1:]}' in page and "Images count as independent" not in page
    again = [str(shutil.copytree(tmp_path / "out", tmp_path / "copy")), str(tmp_path / "out")]
    assert main(["compare", *again, f"--output={tmp_path / 'cmp'}"]) == 0
    assert f"caution: {said}" in capsys.readouterr().out
    assert f'<p class="bad">A{said[1:]}' in (tmp_path / "cmp/compare.html").read_text()
    flat = {name: grid() for name in "abcdefghij"}
    report = scored(write(tmp_path / "f", flat), tmp_path / "f", tmp_path / "out2")
    assert report["resampled"]["caution"] == ""


def test_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth(tmp_path / "t", "abcd")
    truth(tmp_path / "p", "bcde")
    assert "--allow_missing" in refusal(capsys, command(tmp_path))
    assert not (tmp_path / "out").exists()
    assert main(command(tmp_path, "--allow_missing")) == 0
    assert "left out, for one side lacks them: 2" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report["left_out"] == ["a", "e"] and report["images"] == 3


@pytest.mark.parametrize(
    ("option", "pixels", "told"),
    [
        ("prediction", np.zeros((48, 61), np.uint8), r"p/c\.tif: is 48×61 \(H×W\) but its truth"),
        ("probabilities", np.zeros((40, 60), np.uint8), r"q/c\.tif: is 40×60 \(H×W\) but"),
        ("prediction", np.full((48, 60), 0.5, np.float32), r"p/c\.tif: .* no whole numbers"),
        ("prediction", np.full((48, 60, 3), (0, 9, 0), np.uint8), "this one has colours"),
        ("images", np.zeros((40, 60), np.uint8), r"i/c\.tif: is 40×60 \(H×W\) but its truth"),
        ("labels", np.zeros((48, 60), np.uint8), r"t/\w\.tif: a binary mask holds 0 and one"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    option: str,
    pixels: np.ndarray,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"truth": "t", "prediction": "p", "probabilities": "q", "images": "i"}
    for folder in folders.values():
        values = np.uint8(200) * (grid() > 0) if folder in "qi" else grid()
        write(tmp_path / folder, dict.fromkeys("abc", values))
    if option in folders:
        write_image(tmp_path / folders[option] / "c.tif", pixels)
    more = ["--labels=mask"] if option == "labels" else []
    assert re.search(told, refusal(capsys, command(tmp_path, *more, **folders)))
    assert not (tmp_path / "out").exists()


def test_images_of_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth(tmp_path / "t", "ab")
    write(tmp_path / "i", {"x": np.zeros((48, 60), np.uint8)})
    argv = command(tmp_path, prediction="t", images="i")
    assert "--images: none of its 1 files" in refusal(capsys, argv)
