"""Images of many channels and of known scale: the network sees what it was trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from segmentation import load
from segmentation.__main__ import main
from segmentation.app.server import result
from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.errors import UserError
from segmentation.io.images import read_image, read_mask, write_image
from segmentation.predict import outputs
from tests.predict.predicting import ALL, altered, argv, rows

NAMES = ["DAPI", "GFP", "TRITC", "Cy5"]
CHOSEN = ("Cy5", "DAPI", "GFP")
SIZE = (60, 84)


def nuclei(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(C, H, W) uint16; three channels show nuclei, the third noise."""
    rng = np.random.default_rng(seed)
    image = make_nuclei(rng, *size, "fluorescence")[0]
    gray = image.mean(axis=2) * 256.0
    noise = rng.integers(0, 60000, size)
    return np.stack([gray, gray / 3 + 500, noise, gray / 50]).astype(np.uint16)


def save(path: Path, image: np.ndarray, names: Any = NAMES, um: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"axes": "CYX", **({"Channel": {"Name": names}} if names else {})}
    if um is not None:
        about |= {"PhysicalSizeX": um, "PhysicalSizeY": um}
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata=about)
    return path


def trained(checkpoint: Path, path: Path, **preprocess: Any) -> Path:
    def change(config: dict[str, Any]) -> None:
        config["preprocess"] = preprocess

    return altered(checkpoint, path, change)


@pytest.fixture
def chooses(checkpoint: Path, tmp_path: Path) -> Path:
    return trained(checkpoint, tmp_path / "chooses.ckpt", channels=list(CHOSEN))


def left_out(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("left out")]


def test_channels_are_found_by_name_or_given(
    chooses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, images = nuclei(), tmp_path / "images"
    save(images / "a.tif", image)
    save(images / "b.tif", image[[2, 0, 3, 1]], [NAMES[i] for i in (2, 0, 3, 1)])
    save(images / "lacks.tif", image[:2], NAMES[:2])
    save(images / "unnamed.tif", image, None)
    assert main(argv(chooses, images, tmp_path / "out", *ALL)) == 1
    lines = left_out(capsys)
    assert "lacks.tif: there is no channel Cy5 in the image, which has 2 (DAPI, GFP); " in lines[0]
    assert "no channel Cy5 in the image, which has 4; " in lines[1] and "--channels" in lines[1]
    found = [read_mask(tmp_path / f"out/labels/{name}.tif") for name in "ab"]
    assert found[0].max() > 2
    np.testing.assert_array_equal(*found)
    wanted = load(chooses).predict(np.moveaxis(image, 0, 2), channels=NAMES)
    np.testing.assert_array_equal(found[0], wanted)
    overlay = read_image(tmp_path / "out/overlays/a.png")
    assert overlay.shape == (*SIZE, 3)
    for name in ("a", "b", "lacks"):
        (images / f"{name}.tif").unlink()
    given = argv(chooses, images, tmp_path / "given", "--labels", "--channels", *"301")
    assert main(given) == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "given/labels/unnamed.tif"), wanted)
    settings = json.loads((tmp_path / "given/manifest.json").read_text())["settings"]
    assert settings["channels"] == [*"301"] and "diameter" not in settings
    assert main([*given[:-3], *"012"]) == 2
    assert "predictions with channels" in capsys.readouterr().err
    assert main([*given[:-3], *"01"]) == 2
    says = "--channels 0 1: 2 for a network that takes 3 (trained on ('Cy5', 'DAPI', 'GFP'))"
    assert says in capsys.readouterr().err


def test_a_network_of_colours_asks(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "images/x.tif", nuclei())
    assert main(argv(checkpoint, tmp_path / "images", tmp_path / "out")) == 1
    (line,) = left_out(capsys)
    assert "has 4 channels (DAPI, GFP, TRITC, Cy5), and preprocess.channels is rgb; say" in line
    assert "predict --channels 0 1 2" in line
    more = ("--channels", "DAPI", "GFP", "Cy5")
    assert main(argv(checkpoint, tmp_path / "images", tmp_path / "given", *more)) == 0


def test_every_channel_is_measured(chooses: Path, checkpoint: Path, tmp_path: Path) -> None:
    image, images = nuclei(), tmp_path / "images"
    save(images / "a.tif", image)
    save(images / "other.tif", image[[0, 1, 3]], ["DAPI", "GFP", "Cy5"])
    assert main(argv(chooses, images, tmp_path / "out", "--labels")) == 0
    table, labels = rows(tmp_path / "out/objects.csv"), read_mask(tmp_path / "out/labels/a.tif")
    for row in (row for row in table if row["image"] == "a.tif"):
        inside = labels == int(row["object"])
        for name, channel in zip(NAMES, image, strict=True):
            mean = channel[inside].mean()
            assert float(row[f"intensity_mean_{name}"]) == pytest.approx(mean, abs=1e-4)
        mean = np.round(image.mean(axis=0))[inside].mean()
        assert float(row["intensity_mean"]) == pytest.approx(mean, abs=1e-3)
    assert {row["intensity_mean_TRITC"] for row in table if row["image"] == "other.tif"} == {""}
    found = load(chooses).predict(np.moveaxis(image, 0, 2), channels=NAMES, measurements=True)
    assert found.measurements.columns[-4:].tolist() == [f"intensity_mean_{n}" for n in NAMES]
    page = result(load(chooses), "a.tif", (images / "a.tif").read_bytes(), str(tmp_path))
    assert "a.tif" in page
    gray = tmp_path / "gray"
    write_image(gray / "x.png", image[0])
    assert main(argv(checkpoint, gray, tmp_path / "plain")) == 0
    assert not [k for k in rows(tmp_path / "plain/objects.csv")[0] if k.startswith("intensity_m")][
        3:
    ]


def test_streamed_channels(chooses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies where in the file, windows show the same."""
    image, images = nuclei(size=(150, 210)), tmp_path / "images"
    save(images / "a.tif", image)
    stack = np.stack([image, image[:, ::-1]])
    about = {"axes": "TCYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(images / "b.tif", stack, ome=True, metadata=about, tile=(64, 64),
                     photometric="minisblack", compression="zlib")  # fmt: skip
    assert main(argv(chooses, images, tmp_path / "whole", *ALL)) == 0
    monkeypatch.setattr(outputs, "STREAMED", 1000)
    assert main(argv(chooses, images, tmp_path / "out", *ALL)) == 0
    for kind in ("masks", "overlays"):
        for name in ("a", "b"):
            (one,) = (tmp_path / "whole" / kind).glob(f"{name}.*")
            (other,) = (tmp_path / "out" / kind).glob(f"{name}.*")
            read = tifffile.imread if one.suffix == ".tif" else read_image
            np.testing.assert_array_equal(read(one), read(other))
    one, other = (rows(tmp_path / name / "objects.csv") for name in ("whole", "out"))
    assert sorted(map(str, one)) == sorted(map(str, other))
    assert all(row["intensity_mean_Cy5"] for row in other)


@pytest.mark.parametrize("how", ["pixel_size", "diameter"])
def test_images_of_another_scale(
    how: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, image = tmp_path / "images", nuclei()[0]
    twice = np.kron(image, np.ones((2, 2), np.uint16))
    value = 0.5 if how == "pixel_size" else 10.0
    scaled = trained(checkpoint, tmp_path / "x.ckpt", channels="rgb", **{how: value})
    write_image(images / "x.png", twice)
    assert main(argv(scaled, images, tmp_path / "out")) == 1
    assert f"give it by --{how}" in left_out(capsys)[0]
    given = f"--{how}={0.25 if how == 'pixel_size' else 20}"
    assert main(argv(scaled, images, tmp_path / "given", "--labels", given)) == 0
    labels = read_mask(tmp_path / "given/labels/x.tif")
    predictor = load(scaled)
    predictor.adapt(**{how: 0.25 if how == "pixel_size" else 20})
    np.testing.assert_array_equal(labels, predictor.predict(twice))
    table = rows(tmp_path / "given/objects.csv")
    assert len(table) == labels.max() > 2 and bool(table[0]["area_um2"]) == (how == "pixel_size")
    monkeypatch.setattr(outputs, "STREAMED", 1000)
    (images / "x.png").unlink()
    tifffile.imwrite(images / "x.tif", twice, tile=(32, 32), compression="zlib")
    assert main(argv(scaled, images, tmp_path / "streamed", given)) == 1
    assert f"preprocess.{how} magnifies it by 0.5, which needs the whole" in left_out(capsys)[0]
    same = f"--{how}={value:g}"
    assert main(argv(scaled, images, tmp_path / "same", same)) == 0
    for bad in ("0", "-1"):
        assert main(argv(scaled, images, tmp_path / "bad", f"--{how}={bad}")) == 2
        assert f"--{how} {bad} must be positive" in capsys.readouterr().err


def test_pixel_size_of_the_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, image = tmp_path / "images", nuclei()[0]
    scaled = trained(checkpoint, tmp_path / "x.ckpt", channels="rgb", pixel_size=0.5)
    twice = np.kron(image, np.ones((2, 2), np.uint16))
    save(images / "x.tif", twice[None], None, 0.25)
    about = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(images / "oblong.tif", image, ome=True, metadata=about)
    more = ("--labels", "--pixel_size=9")  # is of files that do not tell theirs
    assert main(argv(scaled, images, tmp_path / "out", *more)) == 1
    assert (
        "oblong.tif: pixels of 0.25 × 0.5 µm; preprocess.pixel_size needs square"
        in (left_out(capsys)[0])
    )
    wanted = load(scaled).predict(twice, pixel_size=(0.25, 0.25))
    np.testing.assert_array_equal(read_mask(tmp_path / "out/labels/x.tif"), wanted)


def write_zarr(path: Path, image: np.ndarray) -> Path:
    """By the letter of NGFF 0.5."""
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("0", data=image, chunks=(1, 64, 64))
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [level]}],
        "omero": {"channels": [{"label": name} for name in NAMES]},
    }
    return path


@pytest.mark.parametrize("streamed", [False, True])
def test_ome_zarr_in_and_out(
    streamed: bool, chooses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, images, out = nuclei(size=(150, 210)), tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_zarr(images / "a.ome.zarr", image)
    if streamed:
        monkeypatch.setattr(outputs, "STREAMED", 1000)
    command = argv(chooses, images, out, "--labels", "zarr", "--overlays")
    assert main(command) == 0
    wanted = load(chooses).predict(np.moveaxis(image, 0, 2), channels=NAMES)
    labels = read_mask(out / "labels/a.ome.zarr")
    np.testing.assert_array_equal(labels > 0, wanted > 0)
    assert len(np.unique(labels)) == len(np.unique(wanted)) > 5
    table = rows(out / "objects.csv")
    assert float(table[0]["area_um2"]) == pytest.approx(int(table[0]["area"]) / 16)
    assert table[0]["intensity_mean_Cy5"]
    mask = out / f"masks/a.ome.{'tif' if streamed else 'png'}"
    np.testing.assert_array_equal(read_mask(mask) > 0, wanted > 0)
    group = zarr.open_group(out / "labels/a.ome.zarr", mode="r")
    assert group["labels"].attrs["labels"] == ["segmentation"]
    before = (out / "labels/a.ome.zarr").stat().st_mtime_ns
    assert main(command) == 0  # done already
    assert (out / "labels/a.ome.zarr").stat().st_mtime_ns == before
    shutil.rmtree(images / "a.ome.zarr")
    write_zarr(images / "a.ome.zarr", image[:, ::-1])
    assert main(command) == 0  # anew
    assert (out / "labels/a.ome.zarr").stat().st_mtime_ns > before


def test_a_diameter_without_use_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"without preprocess\.diameter"):
        load(checkpoint).adapt(diameter=20)


def test_each_member_chooses_its_own_channels(chooses: Path, tmp_path: Path) -> None:
    other = trained(chooses, tmp_path / "other.ckpt", channels=["GFP", "TRITC", "DAPI"])
    image, images = nuclei(), tmp_path / "images"
    save(images / "a.tif", image)
    one = argv(chooses, images, tmp_path / "out", "--labels")
    one.insert(one.index(str(chooses)) + 1, str(other))
    assert main(one) == 0
    wanted = load(chooses, other).predict(np.moveaxis(image, 0, 2), channels=NAMES)
    np.testing.assert_array_equal(read_mask(tmp_path / "out/labels/a.tif"), wanted)


def test_files_of_nnunet_are_joined(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, image = tmp_path / "images", nuclei()
    for number, channel in enumerate(image):
        write_image(images / f"sub/case_{number:04}.png", channel)
    by_number = trained(checkpoint, tmp_path / "x.ckpt", channels=[3, 0, 1])
    out = tmp_path / "out"
    assert main(argv(by_number, images, out, "--labels")) == 0
    assert "4 files to 1 images" in capsys.readouterr().out
    wanted = load(by_number).predict(np.moveaxis(image, 0, 2))
    np.testing.assert_array_equal(read_mask(out / "labels/sub/case.tif"), wanted)
    assert main(argv(checkpoint, images, tmp_path / "frames")) == 0  # each an image for it
    assert len(rows(tmp_path / "frames/images.csv")) == 4
    before = (out / "masks/sub/case.png").stat().st_mtime_ns
    assert main(argv(by_number, images, out, "--labels")) == 0
    assert (out / "masks/sub/case.png").stat().st_mtime_ns == before  # done already
    write_image(images / "sub/case_0003.png", image[3][::-1])
    assert main(argv(by_number, images, out, "--labels")) == 0
    assert (out / "masks/sub/case.png").stat().st_mtime_ns > before
    write_image(images / "sub/case_0002.png", image[2][:-1])
    assert main(argv(by_number, images, out, "--labels")) == 1
    assert "case_0002.png: 1 plane(s) of 59×84 pixels" in left_out(capsys)[0]
