"""What can be scored: outlines, classes, pixels that nobody annotated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.errors import UserError
from segmentation.evaluation.table import read_images
from segmentation.io.files import write_table
from segmentation.io.images import write_image
from segmentation.io.run_lengths import RLE_COLUMNS
from segmentation.predict.formats import outlines, run_lengths
from tests.evaluation.folders import grid, scored, shifted, truth, write


def geojson(folder: Path, maps: dict[str, np.ndarray], names: dict[int, str] | None = None) -> Path:
    """One file of outlines a map, by QuPath's structure."""
    folder.mkdir(parents=True)
    for name, labels in maps.items():
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": one.polygons},
                "properties": {"classification": {"name": names[one.label]}} if names else {},
            }
            for one in outlines(labels)
        ]
        (folder / f"{name}.geojson").write_text(json.dumps(features))
    return folder


def test_outlines_are_scored_as_label_maps(tmp_path: Path) -> None:
    masks, shifts = truth(tmp_path / "t", "ab"), {"a": 1, "b": 2}
    wanted = scored(masks, shifted(tmp_path / "p", shifts), tmp_path / "o")
    drawn = geojson(tmp_path / "g", {"a": grid(), "b": grid()})
    found = scored(drawn, tmp_path / "p", tmp_path / "o")
    assert found.pop("objects")["truth"] == "outlines or run lengths, one object each"
    assert found == {key: value for key, value in wanted.items() if key != "objects"}
    rows = [(f"{n}.png", code) for n, s in shifts.items() for code in run_lengths(grid(s))]
    table = tmp_path / "p.csv"
    write_table(table, RLE_COLUMNS, [dict(zip(RLE_COLUMNS, row, strict=True)) for row in rows])
    assert scored(masks, table, tmp_path / "o")["prediction"] == wanted["prediction"]
    with pytest.raises(UserError, match=r"a\.geojson: does not tell the size of its image"):
        scored(drawn, table, tmp_path / "o")
    images = write(tmp_path / "i", dict.fromkeys("ab", np.uint8(grid())))
    found = scored(drawn, table, tmp_path / "o", images=images)
    assert found["prediction"] == wanted["prediction"]


def test_classes(tmp_path: Path) -> None:
    """The first three squares are of another class; half of them are taken for the others."""
    kinds = {k: "red" if k < 4 else "blue" for k in range(1, 10)}
    drawn = geojson(tmp_path / "g", {"a": grid()}, kinds)
    classes = np.uint8([0, 1, 1, 2, *[2] * 6])[grid()]
    found = write(tmp_path / "p", {"a": classes}, ".png")
    names: dict[str, Any] = {"classes": ["red", "blue"], "labels": "classes"}
    report = scored(drawn, found, tmp_path / "o", **names)
    assert report["prediction"]["iou"] == 1
    assert report["prediction"]["iou/red"] == pytest.approx(2 / 3)
    assert report["prediction"]["iou/blue"] == pytest.approx(6 / 7)
    assert report["confusion"]["objects"][1] == [0, 2, 1]
    assert "iou/red" in read_images(tmp_path / "o/per_image.csv")
    with pytest.raises(UserError, match=r"holds the value\(s\) 2, but --classes names 1 red"):
        scored(drawn, found, tmp_path / "o", labels="classes", classes=["red"])
    with pytest.raises(UserError, match=r"^--labels classes needs the names of the values"):
        scored(drawn, found, tmp_path / "o", labels="classes")


def test_what_is_not_annotated_is_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lower half is predicted wrongly, and nobody has annotated it."""
    maps = {"a": grid(), "b": grid()}
    predictions = {name: np.where(np.arange(48)[:, None] < 28, grid(), 77) for name in maps}
    found = write(tmp_path / "p", {n: m.astype(np.uint16) for n, m in predictions.items()})
    wanted = write(tmp_path / "t", maps)
    assert scored(wanted, found, tmp_path / "o")["prediction"]["iou"] < 1
    region = np.repeat(np.uint8(255 * (np.arange(48) < 28))[:, None], 60, 1)
    known = write(tmp_path / "k", dict.fromkeys(maps, region))
    report = scored(wanted, found, tmp_path / "o", annotated=known)
    assert report["prediction"]["iou"] == report["prediction"]["ap50"] == 1
    assert report["unannotated"] == 20 / 48
    assert "not annotated, and not scored: 41.7 % of the pixels\n" in capsys.readouterr().out
    write(
        tmp_path / "t", {n: np.where(region > 0, m, 999).astype(np.uint16) for n, m in maps.items()}
    )
    report = scored(wanted, found, tmp_path / "o", ignore=999)
    assert report["prediction"]["iou"] == report["prediction"]["ap50"] == 1
    probs = write(tmp_path / "q", {n: np.uint8(255 * (grid() > 0)) for n in maps}, ".png")
    report = scored(wanted, found, tmp_path / "o", ignore=999, probabilities=probs)
    assert report["prediction"]["auroc"] == 1
    write_image(tmp_path / "k/b.tif", np.zeros_like(region))
    with pytest.raises(UserError, match=r"b\.tif: no pixel is annotated; remove the image"):
        scored(wanted, found, tmp_path / "o", annotated=known)


def test_several_annotators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one marks squares a row lower; the prediction is what both mark."""
    one = truth(tmp_path / "expert1", "ab")
    other = write(tmp_path / "expert2", {n: np.uint8(255 * (grid(1) > 0)) for n in "ab"}, ".png")
    both = np.where(grid(1) > 0, grid(), 0).astype(np.uint16)
    found = write(tmp_path / "p", dict.fromkeys("ab", both))
    report = scored([one, other], found, tmp_path / "o")
    assert report["prediction"]["iou"] == report["prediction"]["ap50"] == 1
    rows = {tuple(row.pop("between")): row for row in report["annotators"]}
    ious = {pair: row["iou"] for pair, row in rows.items()}
    assert ious == {
        ("prediction", "expert1"): pytest.approx(5 / 6),
        ("prediction", "expert2"): pytest.approx(5 / 6),
        ("expert1", "expert2"): pytest.approx(5 / 7),
    }
    assert rows["expert1", "expert2"]["ap50"] == 1
    printed = capsys.readouterr().out
    assert "expert1 and expert2                          0.7143     0.7143     0.8333" in printed
    assert "what expert1, expert2 agree on; instance ids of label maps" in printed
    (other / "b.png").unlink()
    with pytest.raises(UserError, match=r"--prediction: 1 files have no partner in --truth: b"):
        scored([one, other], found, tmp_path / "o")
    report = scored([one, other], found, tmp_path / "o", allow_missing=True)
    assert report["images"] == 1 and report["left_out"] == ["b"]
