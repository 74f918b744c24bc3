"""Names of files that are not UTF-8, hold control characters or are as long as can be."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from segmentation.errors import UserError
from segmentation.io.files import write_bytes
from segmentation.predict.folder import _images, _stems
from tests.regressions.conftest import Result, picture, write_png

LONG = "x" * 246
# As stored ► as shown, everywhere.
NAMES = {
    "bad\udcff": "bad\\xff",
    "line\nbreak": "line\\x0abreak",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "<b>\"'&": "<b>\"'&",
    "right\u202eleft": "right\\u202eleft",
    "sub\udcfe/in\t": "sub\\xfe/in\\x09",
    LONG: LONG,
    "=1+1": "=1+1",
}
SHOWN = sorted(NAMES.values())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        image, labels = picture(seed)
        write_png(tmp_path / f"d/images/{name}.png", image)
        write_png(tmp_path / f"d/masks/{name}.png", (labels > 0) * image.dtype.type(255))
    return tmp_path / "d"


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def texts(folder: Path) -> list[str]:
    """Every file of text below a folder, all of it UTF-8, without control characters."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".csv", ".json", ".html", ".yaml")]
    found = [path.read_text(encoding="utf-8") for path in paths]
    assert not any(sign in text for text in found for sign in "\x1b\udcff\u202e")
    return found


@pytest.mark.skipif(os.name == "nt", reason="its file systems have no such names")
def test_every_command_takes_all_names_and_shows_them_alike(
    data: Path,
    fit: Callable[..., Result],
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = ["--data.split.test=5", "--data.split.val=1"]
    assert fit(data, *parts).status == 0
    (folder,) = Path("runs/t").iterdir()
    split = json.loads((folder / "split.json").read_text())
    assert sorted(split["train"] + split["val"] + split["test"]) == SHOWN
    tested = table(folder / "per_image.csv").query("method == 'network'")
    assert sorted(tested["id"]) == sorted(split["test"])
    assert texts(folder) and len([*(folder / "overlays").iterdir()]) >= 4

    weights = folder / "checkpoints/best.ckpt"
    outputs = ["--labels", "--probabilities", "--overlays", "--geojson", "--rle", "--rois"]
    for out in ("p", "streamed"):
        command = ["predict", f"--ckpt_path={weights}", f"--data.images={data / 'images'}"]
        assert run(*command, f"--output={out}", *outputs).status == 0
        rows = table(Path(out, "images.csv"))
        assert sorted(rows["image"]) == sorted(f"{name}.png" for name in SHOWN)
        assert {*table(Path(out, "rle.csv"))["ImageId"]} == {*SHOWN}
        manifest = json.loads(Path(out, "manifest.json").read_text())
        files = {file["image"]: file["outputs"] for file in manifest["files"]}
        assert {*files} == {f"{name}.png" for name in SHOWN}
        assert all(Path(out, name).is_file() for names in files.values() for name in names)
        assert texts(Path(out)) and run(*command, f"--output={out}", *outputs).status == 0
        monkeypatch.setattr("segmentation.predict.outputs.STREAMED", 1)
    assert table(Path("p/images.csv")).equals(table(Path("streamed/images.csv")))

    sides = ["--truth", data / "masks", "--prediction", "p/labels", "--images", data / "images"]
    assert run("evaluate", *sides, "--output=e").status == 0
    assert sorted(table(Path("e/per_image.csv")).query("method == 'otsu'")["id"]) == SHOWN
    assert run("audit", "folder", f"--root={data}", "--output=a").status == 0
    shutil.copytree("e", "other")
    assert run("compare", "e", "other", "--output=c").status == 0
    assert texts(Path("e")) and texts(Path("a")) and texts(Path("c"))


@pytest.mark.skipif(os.name == "nt", reason="its file systems have no such names")
def test_names_that_only_escaping_makes_alike_are_refused(tmp_path: Path) -> None:
    for name in ("a\x1b.png", "a\\x1b.png"):
        write_png(tmp_path / "d" / name, picture(0)[0])
    with pytest.raises(UserError, match="two files are called so once escaped; rename one"):
        _stems(tmp_path / "d", _images(tmp_path / "d", tmp_path / "out")[0], {})


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "y" * 251 + ".csv"])
def test_a_file_of_the_longest_name_is_written(name: str, tmp_path: Path) -> None:
    write_bytes(tmp_path / name, b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_typed_path_that_is_not_utf8_is_refused_in_one_line(run: Callable[..., Result]) -> None:
    result = run("predict", "--ckpt_path=a\udcff", "--data.images=d", "--output=o")
    assert result.status == 2
    assert result.line.endswith("--ckpt_path=a\\xff: is not UTF-8; rename it, or give a link to it")
