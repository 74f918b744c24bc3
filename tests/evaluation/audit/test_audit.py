"""The whole audit: what it reports, what it writes, and what it does about bad input."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from segmentation.__main__ import main
from segmentation.data.sample import Record, Split
from segmentation.data.splits import GroupSplit, RandomSplit
from segmentation.datasets.synthetic import write_classes
from segmentation.errors import UserError
from segmentation.evaluation.audit import FILES, make_audit, read_split, readable
from segmentation.io.images import read_mask, write_image
from tests.errors import refuses
from tests.evaluation.audit.listed import Listed, block, noise, sample
from tests.helpers import refusal
from tests.pages import check_page


def page_of(output: Path) -> tuple[str, list[str]]:
    """The text of an audit's page, which stands alone, and its pictures."""
    text = (output / FILES[0]).read_text()
    tags = check_page(text)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe"}
    pictures = [str(known["src"]) for tag, known in tags if tag == "img"]
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    return html.unescape(re.sub("<[^>]*>", "", text)), pictures


def listed(**settings: Any) -> Listed:
    odd = block(5, 5, 3, 3) + block(20, 20, 2, 2)
    return Listed(
        sample("a", noise(0), block(5, 5, 10, 10), "x"),
        sample("b<i>", noise(0), np.zeros((48, 64)), "x"),
        sample("c", noise(1), odd, "y"),
        sample("d", noise(2), None, "y"),
        **settings,
    )


SPLIT = Split(("a", "c"), ("b<i>",), ("d",))


def test_everything_is_reported(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "audit"
    report = make_audit(listed(), output, SPLIT, "mine", cache=tmp_path)
    assert {path.name for path in output.iterdir()} == set(FILES)
    assert [path.name for path in output.parent.iterdir()] == ["audit"]
    assert json.loads((output / "audit.json").read_text()) == json.loads(json.dumps(report))
    assert report["faults"] == {} and report["samples_read"] == 4
    assert report["duplicates"]["exact"] == [["a", "b<i>"]]
    assert report["duplicates"]["contradicting"] == 1
    split = report["split"]
    assert split["exact"] == [["a", "b<i>"]] and split["near"] == []
    assert split["parts"] == {"train": 2, "val": 1, "test": 1}
    assert split["groups"] == [
        {"group": "x", "parts": ["train", "val"]},
        {"group": "y", "parts": ["train", "test"]},
    ]
    labels = report["labels"]
    assert labels["empty"] == ["b<i>"] and labels["no_truth"] == ["d"]
    assert (labels["objects"], labels["parts"], labels["holes"], labels["cut"]) == (2, 1, 0, 0)
    assert labels["overlaps"] is None
    assert [one["id"] for one in report["samples"]] == ["a", "b<i>", "c", "d"]
    page, pictures = page_of(output)
    assert len(pictures) == 3  # the pair, the object of two parts, a likely source
    for text in ("Overlaps: not available", "IoU 0.000, contradicting", "b<i>", "identical"):
        assert text in page


def test_samples_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    source = listed(faults=("a", "d"))
    report = make_audit(source, tmp_path / "out", SPLIT, "mine", cache=tmp_path)
    assert report["faults"] == {name: f"{name}.png: broken; copy it again" for name in "ad"}
    assert report["samples_read"] == 2 and report["split"]["parts"]["test"] == 0
    assert "a.png: broken" in page_of(tmp_path / "out")[0]
    assert '#  - "a"  # a.png: broken' in (tmp_path / "out" / "corrections.yaml").read_text()
    refuses(r"a\.png: broken", readable, listed(faults=("a", "b<i>", "c", "d")), tmp_path)


def test_a_split_that_cannot_be_drawn_is_noted(tmp_path: Path) -> None:
    split = GroupSplit(val=1, test=1)
    report = make_audit(listed(), tmp_path / "out", split, "by group", cache=tmp_path)
    assert "2 group(s)" in report["split"]["error"]
    assert "by group: not possible. split: 2 group(s)" in page_of(tmp_path / "out")[0]
    split = RandomSplit(val=1, test=1)
    drawn = make_audit(listed(), tmp_path / "2", split, "random", cache=tmp_path)
    assert sum(drawn["split"]["parts"].values()) == 4


def test_overlaps_where_the_reader_knows(tmp_path: Path) -> None:
    class Knowing(Listed):
        def overlaps(self, record: Record) -> int:
            return 7 if record.id == "c" else 0

    source = Knowing(*listed().samples.values())
    report = make_audit(source, tmp_path / "out", SPLIT, "mine", cache=tmp_path)
    assert report["labels"]["overlaps"] == {"c": 7}
    assert "Overlapping objects" in page_of(tmp_path / "out")[0]


def test_one_image_without_truth(tmp_path: Path) -> None:
    source = Listed(sample("a", np.zeros((5, 5), np.uint8), None))
    make_audit(source, tmp_path / "out", Split(("a",), (), ()), "mine", cache=tmp_path)
    assert "No duplicates." in page_of(tmp_path / "out")[0]


def test_bad_input_of_audit(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    for name in ("full", "full/x", "full/x/y"):
        refuses(name, make_audit, listed(), tmp_path / name, SPLIT, "mine", cache=tmp_path)
    with pytest.raises(UserError, match="'z'"):
        make_audit(listed(), tmp_path / "out", Split(("a", "z"), (), ()), "mine", cache=tmp_path)
    assert not (tmp_path / "out").exists()
    make_audit(listed(), tmp_path / "empty", SPLIT, "mine", cache=tmp_path)


def test_the_split_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(SPLIT.to_json())
    assert read_split(path) == SPLIT
    for text in ("", "[]", "3", '{"train": []}', '{"train": [1], "val": [], "test": []}', "\x00"):
        path.write_text(text)
        refuses(r"not a split\.json", read_split, path)
    path.write_text('{"train": ["a"], "val": ["a"], "test": []}')
    refuses(r"split\.json: split: a is in train and again in val", read_split, path)
    path.write_bytes(b"\xff")
    refuses("not a split", read_split, path)
    refuses("cannot be read", read_split, tmp_path)


def test_command(folder_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["audit", "folder", "--root", str(folder_root), "--mask_type", "labels"]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0
    assert "9  samples that can be read" in capsys.readouterr().out
    assert (tmp_path / "out" / "audit.html").is_file()
    split = tmp_path / "split.json"
    split.write_text(Split(("field_0000",), (), ("field_0001",)).to_json())
    (tmp_path / "corrections.yaml").write_text("drop: [field_0008]")
    more = ["--split", str(split), "--corrections", str(tmp_path / "corrections.yaml")]
    assert main([*argv, *more, "--output", str(tmp_path / "again")]) == 0
    report = json.loads((tmp_path / "again" / "audit.json").read_text())
    assert report["split"]["parts"] == {"train": 1, "val": 0, "test": 1}
    assert report["samples_read"] == 8


def test_command_with_a_mask_of_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        write_image(tmp_path / "data" / "images" / f"{i}.png", noise(i))
        size = (48, 64) if i else (40, 64)
        write_image(
            tmp_path / "data" / "masks" / f"{i}.png", block(1, 1, 9, 9, size).astype(np.uint8)
        )
    argv = ["audit", "folder", "--root", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert main(argv) == 1
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert list(report["faults"]) == ["0"] and "40×64" in report["faults"]["0"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--near", "1"], "--near 1.0"),
        (["--near", "nan"], "--near nan"),
        (["--agree", "-0.1"], "--agree -0.1"),
        (["--small", "x"], "--small"),
        (["--small", "-1"], "--small -1"),
        (["--truth", "gold"], "--truth: is not an option of folder"),
        (["--split", "absent"], "absent: cannot be read"),
        (["--corrections", "absent"], "absent: cannot be read"),
        (["--images", "absent"], "absent"),
        (["--root", "absent"], "absent"),
        (["--mask_type", "binary"], "binary mask"),
    ],
)
def test_bad_input_of_the_command(
    more: list[str],
    says: str,
    folder_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["audit", "folder", "--root", str(folder_root), "--output", str(tmp_path / "out")]
    assert says in refusal(capsys, [*argv, *more])
    assert not (tmp_path / "out").exists()


def test_objects_of_each_class_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_classes(tmp_path / "data", 4, size=(64, 64))
    output = tmp_path / "audit"
    more = ["--mask_type=classes", "--classes", "round", "long", "large", "huge"]
    assert main(["audit", "folder", f"--root={root}", f"--output={output}", *more]) == 0
    found = json.loads((output / "audit.json").read_text())["labels"]["classes"]
    maps = [read_mask(path) for path in sorted((root / "masks").iterdir())]
    counts = {
        name: sum(int(ndimage.label(one == i, np.ones((3, 3)))[1]) for one in maps)
        for i, name in enumerate(("round", "long", "large", "huge"), start=1)
    }
    assert found == counts and min([*found.values()][:3]) > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{counts['long']} of which of class long" in printed and "0 of which" in printed
