"""Large images: through the network in tiles, and from disk to disk."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segmentation import predict, prediction
from segmentation.__main__ import main
from segmentation.checkpoint import load_task
from segmentation.data.images import read_image
from segmentation.inference.large import tiled
from segmentation.prediction import probabilities
from tests.outputs.predicting import argv, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("trained") / "best.ckpt")


def image(height: int = 150, width: int = 210) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    dots = sum(
        ((rows - y) ** 2 + (columns - x) ** 2 < 60).astype(int)
        for y, x in rng.integers(0, (height, width), (25, 2))
    )
    noisy = 40 + 150 * np.minimum(dots, 1) + rng.integers(0, 30, (height, width))
    return noisy.astype(np.uint8)


def test_tiles_say_what_one_piece_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, pixels = load_task(checkpoint), image()[..., None]
    whole = probabilities(task, pixels)
    monkeypatch.setattr(prediction, "WHOLE", 1000)
    calls = []

    def watched(*arguments: object) -> object:
        calls.append(arguments)
        return partial(tiled, tile=64)(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction, "tiled", watched)
    np.testing.assert_allclose(probabilities(task, pixels), whole, atol=1e-5)
    assert calls


def test_a_streamed_image_has_the_same_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    tifffile.imwrite(images / "sub/a.tif", image())
    more = ["--labels", "--probabilities"]
    assert main(argv(checkpoint, images, tmp_path / "whole", *more)) == 0
    monkeypatch.setattr(predict, "STREAMED", 1000)
    assert main(argv(checkpoint, images, tmp_path / "streamed", *more)) == 0
    for kind, tolerance in (("masks", 0), ("labels", 0), ("probabilities", 1)):
        one, other = (
            read_image(tmp_path / out / kind / "sub/a.tif") for out in ("whole", "streamed")
        )
        assert np.abs(one.astype(int) - other).max() <= tolerance, kind
    tables = []
    for out in ("whole", "streamed"):
        for name in ("images", "objects"):
            with (tmp_path / out / f"{name}.csv").open(newline="") as file:
                tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[2]  # counts of images
    assert [r["area"] for r in tables[1]] == [r["area"] for r in tables[3]] and tables[1]

    before = (tmp_path / "streamed/masks/sub/a.tif").stat().st_mtime_ns
    assert main(argv(checkpoint, images, tmp_path / "streamed", *more)) == 0
    assert (tmp_path / "streamed/masks/sub/a.tif").stat().st_mtime_ns == before


def test_what_is_not_made_of_streamed_images_is_said(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    tifffile.imwrite(images / "a.tif", image())
    monkeypatch.setattr(predict, "STREAMED", 1000)
    assert main(argv(checkpoint, images, tmp_path / "out", "--geojson")) == 1
    line = [w for w in capsys.readouterr().err.splitlines() if w.startswith("left out")]
    assert len(line) == 1 and "a.tif: 150×210 pixels" in line[0] and "--geojson" in line[0]
    assert not (tmp_path / "out/masks/a.tif").exists()
