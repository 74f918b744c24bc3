"""Damaged files, drawn with a fixed seed: refused in one line, or read as they were."""

import contextlib
import csv
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from segmentation.__main__ import main
from segmentation.checkpoints import load
from segmentation.config_files import configs_folder, find_config, read_parts
from segmentation.datasets import DSB2018
from segmentation.errors import UserError
from segmentation.io.images import read_mask
from tests.encoded import npy, pillow, tiff
from tests.predict.predicting import argv
from tests.regressions.conftest import picture

_MOST_MEMORY = 2 * 2**30  # bytes
_LONGEST = 5.0  # seconds for one file, where most take some milliseconds


_PIXELS, _LABELS = picture(0)
_WIDE = (_PIXELS.astype(np.uint16) << 8) + 7
IMAGES = {
    "8.png": pillow(_PIXELS, "PNG"),
    "16.png": pillow(_WIDE, "PNG"),
    "rgb.png": pillow(np.stack([_PIXELS] * 3, axis=-1), "PNG"),
    "raw.tif": tiff(_PIXELS),
    "deflate.tif": tiff(_WIDE, compression="zlib"),
    "lzw.tif": tiff(_PIXELS, compression="lzw", tile=(32, 32)),
    "ome.tif": tiff(np.stack([_PIXELS] * 3), ome=True, metadata={"axes": "ZYX"}),
    "imagej.tif": tiff(_WIDE, imagej=True),
    "colour.jpg": pillow(np.stack([_PIXELS] * 3, axis=-1), "JPEG"),
    "gray.bmp": pillow(_PIXELS, "BMP"),
    "array.npy": npy(_PIXELS),
}
# Formats whose checksums tell every change of the pixels. In the others a changed byte may well be
# another valid picture.
_CHECKED = (".png",)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: flipped bits, wrong bytes, a piece lost, doubled, or the end cut off."""
    wrong = bytearray(data)
    at = int(rng.integers(len(data)))
    size = int(rng.integers(1, 1 + min(200, len(data))))
    kind = rng.integers(7)
    if kind == 0:
        for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
            wrong[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        wrong[at : at + size] = rng.bytes(len(wrong[at : at + size]))
    elif kind == 2:
        del wrong[at : at + size]
    elif kind == 3:
        wrong[at:at] = wrong[at : at + size]
    elif kind == 4:
        del wrong[at:]
    elif kind == 5:  # a number that is far too large, near the start where sizes are stored
        at %= 200
        wrong[at : at + 4] = b"\xff\xff\xff\x7f"
    else:
        wrong[at : at + size] = bytes(len(wrong[at : at + size]))
    return bytes(wrong)


@contextlib.contextmanager
def quickly(name: str) -> Iterator[None]:
    """Within, nothing may take long or fill the memory."""
    process, start = psutil.Process(), time.monotonic()
    before = process.memory_info().rss
    yield
    assert time.monotonic() - start < _LONGEST, name
    assert process.memory_info().rss - before < _MOST_MEMORY, name


def accepted(read: Callable[[], object], name: str) -> object:
    """What a reader gives, or ``None`` where it refuses in one line; all else is an error."""
    with quickly(name):
        try:
            return read()
        except UserError as error:
            assert "\n" not in str(error) and name in str(error), str(error)
            return None


def test_predict_leaves_damaged_files_out(tmp_path: Path, checkpoint: Path) -> None:
    """The others' masks are those of the whole files; the table and the masks agree."""
    rng = np.random.default_rng(1)
    folder, output = tmp_path / "images", tmp_path / "output"
    folder.mkdir()
    for name, data in IMAGES.items():
        (folder / f"whole-{name}").write_bytes(data)
        for number in range(8):
            (folder / f"{number}-{name}").write_bytes(mutated(data, rng))
    assert main(argv(checkpoint, folder, output)) == 1
    with (output / "images.csv").open() as file:
        done = {row["image"] for row in csv.DictReader(file)}
    assert {f"whole-{name}" for name in IMAGES} <= done
    masks = {path.name.partition(".")[0] for path in (output / "masks").iterdir()}
    assert masks == {name.partition(".")[0] for name in done}
    for name in (name for name in done if name.endswith(_CHECKED)):
        whole = "whole-" + name.partition("-")[2]
        assert np.array_equal(
            read_mask(output / "masks" / name), read_mask(output / "masks" / whole)
        )


def test_a_damaged_config_is_refused_or_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts = [path.read_bytes() for path in sorted(configs_folder().glob("**/*.yaml"))]
    assert len(texts) > 20
    path = tmp_path / "damaged.yaml"
    for number in range(150):
        path.write_bytes(mutated(texts[number % len(texts)], rng))
        with quickly(path.name):
            try:
                parts = read_parts(path)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert all(isinstance(part, dict) for part in parts)


def test_fit_refuses_a_damaged_config_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong keys and values, that is: the text is mostly valid YAML."""
    rng = np.random.default_rng(5)
    parts = [yaml.safe_dump(part) for part in read_parts(find_config("folder"))]
    path = tmp_path / "damaged.yaml"
    for number in range(60):
        text = parts[number % len(parts)].encode()
        at = int(rng.integers(len(text)))
        size = int(rng.integers(1, 6))
        path.write_bytes(
            text[:at] + rng.choice([b"", b"x", b"0", b": ", b"-1"]) + text[at + size :]
        )
        try:
            status = main(["fit", "--config", "folder", "--config", str(path), "--print_config"])
        except SystemExit as end:  # the whole config was printed
            assert end.code == 0
            continue
        assert status == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert sum("error" in line for line in lines) == 1, lines


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    """Whatever changed: an accepted one must hold what was trained, to the byte."""
    rng = np.random.default_rng(3)
    data = checkpoint.read_bytes()
    path = tmp_path / "damaged.ckpt"
    right = load(checkpoint).predict(_PIXELS)
    for _ in range(400):
        wrong = mutated(data, rng)
        if wrong == data:
            continue
        path.write_bytes(wrong)
        model = accepted(lambda: load(path), path.name)
        assert model is None or np.array_equal(model.predict(_PIXELS), right)  # type: ignore[attr-defined]


def test_a_damaged_archive_is_refused_or_right(
    tmp_path: Path, dsb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member whose name is damaged is passed over, which is said."""
    rng = np.random.default_rng(4)
    (archive,) = {p for p in dsb_root.iterdir() if "train" in p.name}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(archive.rglob("*"))[:40]:
            if path.is_file():
                file.write(path, path.relative_to(archive).as_posix())
    root = tmp_path / "damaged"
    root.mkdir()
    target = root / f"{archive.name}.zip"
    target.write_bytes(packed.getvalue())
    right = {sample.id: sample for sample in DSB2018(str(root))}
    for number in range(200):
        target.write_bytes(mutated(packed.getvalue(), rng))
        found = accepted(lambda: list(DSB2018(str(root))), "damaged")
        said = "passed over" in capsys.readouterr().err
        for sample in found or ():  # type: ignore[attr-defined]
            same = right.get(sample.id)
            equal = same is not None and np.array_equal(sample.image, same.image)
            assert said or (equal and np.array_equal(sample.labels, same.labels)), number
