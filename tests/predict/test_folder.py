"""Prediction of a folder: what it writes, of which files, by which checkpoints."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from roifile import roiread

import segmentation
from segmentation.__main__ import main
from segmentation.checkpoints import load_task
from segmentation.io.images import read_image, read_mask
from segmentation.io.run_lengths import rle_encode
from tests.helpers import refusal
from tests.predict.predicting import ALL, altered, argv, make_images, rows


def test_all_outputs(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(argv(checkpoint, images, out, *ALL)) == 0
    masks = {p.relative_to(out / "masks").as_posix(): p for p in (out / "masks").rglob("*.*")}
    # A JPEG mask would be lossy.
    assert set(masks) == {"image0.png", "sub/image1.tif", "image2.png"}
    task = load_task(checkpoint)
    counts = {row["image"]: row for row in rows(out / "images.csv")}
    objects, codes = rows(out / "objects.csv"), rows(out / "rle.csv")
    assert set(counts) == {"image0.png", "sub/image1.tif", "image2.jpg"}
    for name, row in counts.items():
        image = read_image(images / name)
        probs = task.predictor.maps(image)
        mask = read_mask(masks[name.replace(".jpg", ".png")])
        assert mask.shape == image.shape[:2]
        assert np.array_equal(mask > 0, probs[0] > 0.5) and set(np.unique(mask)) <= {0, 255}
        stem = Path(name).with_suffix("").as_posix()
        stored = tifffile.imread(out / "probabilities" / f"{stem}.tif")
        assert np.abs(stored / 65535 - probs[0]).max() <= 0.5 / 65535 + 1e-7
        labels = tifffile.imread(out / "labels" / f"{stem}.tif")
        assert labels.dtype == np.uint16
        count = cv2.connectedComponents(mask)[0] - 1
        assert int(row["objects"]) == labels.max() == count > 0
        assert int(row["foreground_pixels"]) == (mask > 0).sum()
        areas = np.bincount(labels.ravel())[1:]
        assert float(row["mean_area"]) == pytest.approx(areas.mean(), abs=0.01)
        own = [o for o in objects if o["image"] == name]
        assert [int(o["area"]) for o in own] == areas.tolist()
        assert [int(o["object"]) for o in own] == list(range(1, count + 1))
        overlay = cv2.imread(str(out / "overlays" / f"{stem}.png"))
        assert overlay is not None and overlay.shape[:2] == mask.shape
        outlines = json.loads((out / "geojson" / f"{stem}.geojson").read_text())["features"]
        regions = roiread(out / "rois" / f"{stem}.zip")
        assert len(outlines) == len(regions) == count  # type: ignore[arg-type]
        runs = [c["EncodedPixels"] for c in codes if c["ImageId"] == stem]
        assert runs == [rle_encode(labels == i) for i in range(1, count + 1)]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["complete"] and manifest["left_out"] == []
    assert [f["image"] for f in manifest["files"]] == sorted(counts)
    assert all((out / name).is_file() for f in manifest["files"] for name in f["outputs"])
    assert manifest["checkpoints"] == [str(checkpoint)]
    assert len(manifest["settings"]["checkpoint_sha256"][0]) == 64
    assert manifest["versions"]["torch"] == torch.__version__


def test_a_bad_file_is_named_and_does_not_stop_the_rest(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "image0.png").read_bytes()[:200])
    (images / "text.png").write_text("hello")
    with tifffile.TiffWriter(images / "mixed.tif") as file:
        for size in (30, 40):
            file.write(np.zeros((size, 40), np.uint8), photometric="minisblack")
    out = tmp_path / "out"
    for _ in range(2):  # the second time too, when all others are done
        assert main(argv(checkpoint, images, out)) == 1
        captured = capsys.readouterr()
        left = [line for line in captured.err.splitlines() if line.startswith("left out")]
        assert len(left) == 3 and "Traceback" not in captured.err
        assert "broken.png: the PNG is damaged" in left[0]
        assert "mixed.tif: " in left[1] and "mixed sizes" in left[1]
        assert "text.png: " in left[2] and "not a PNG" in left[2]
        assert len(rows(out / "images.csv")) == 3
        manifest = json.loads((out / "manifest.json").read_text())
        assert [m["image"] for m in manifest["left_out"]] == ["broken.png", "mixed.tif", "text.png"]
        assert len(manifest["files"]) == 3 and manifest["complete"]


def test_nothing_but_bad_files(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/text.png").write_text("hello")
    out = tmp_path / "out"
    assert main(argv(checkpoint, tmp_path / "images", out, "--rle")) == 1
    assert [len(rows(out / f"{name}.csv")) for name in ("objects", "images", "rle")] == [0, 0, 0]


def test_no_objects(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    blind = tmp_path / "blind.ckpt"
    altered(checkpoint, blind, lambda c: c["target"]["init_args"].update(threshold=0.9999999))
    out = tmp_path / "out"
    assert main(argv(blind, images, out, *ALL)) == 0
    assert (out / "objects.csv").read_text().splitlines()[0].startswith("image,plane,object,area")
    assert rows(out / "objects.csv") == []
    assert [row["objects"] for row in rows(out / "images.csv")] == ["0", "0", "0"]
    assert [row["EncodedPixels"] for row in rows(out / "rle.csv")] == ["", "", ""]
    assert json.loads((out / "geojson/image0.geojson").read_text())["features"] == []
    assert not tifffile.imread(out / "labels/image0.tif").any()


def test_arrays_are_images(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """NPY as the same pixels in PNG; what Cellpose leaves beside images is none."""
    arrays, out = tmp_path / "arrays", tmp_path / "out"
    arrays.mkdir()
    np.save(arrays / "image0.npy", read_image(images / "image0.png"))
    np.save(arrays / "image1.npy", read_image(images / "sub" / "image1.tif")[..., 0])
    np.save(arrays / "image0_seg.npy", {"masks": 1})  # type: ignore[arg-type]  # a pickle
    assert main(argv(checkpoint, arrays, out)) == main(argv(checkpoint, images, out / "2")) == 0
    assert len(list((out / "masks").iterdir())) == 2
    for name, wanted in (("image0.png", "image0.png"), ("image1.png", "sub/image1.tif")):
        found = read_mask(out / "masks" / name)
        np.testing.assert_array_equal(found, read_mask(out / "2" / "masks" / wanted))


def test_names_do_not_collide(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    first = images / "image0.png"
    for name in ("Zelle ä 細胞.png", "twin.png", "twin.tif.png", "a b/c.d/twin.v2.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, images / name)
    tifffile.imwrite(images / "twin.tif", read_image(first), photometric="rgb")
    out = tmp_path / "out"
    assert main(argv(checkpoint, images, out, *ALL[:-1], "--labels", "png")) == 0
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    written = [name for file in manifest["files"] for name in file["outputs"]]
    assert len(written) == len({name.casefold() for name in written}) == 8 * 5
    for name in ("Zelle ä 細胞.png", "twin.png.png", "twin.tif.tif", "a b/c.d/twin.v2.png"):
        assert f"masks/{name}" in written
    images_csv = rows(out / "images.csv")
    assert len({row["image"] for row in images_csv}) == 8
    wanted = read_mask(out / "masks/image0.png")
    for name in ("Zelle ä 細胞.png", "twin.png.png", "twin.tif.tif", "twin.tif.png.png"):
        np.testing.assert_array_equal(read_mask(out / "masks" / name), wanted)
    assert read_mask(out / "labels/Zelle ä 細胞.png").max() == int(images_csv[0]["objects"])


@pytest.mark.parametrize("layout", ["ome", "imagej", "plain"])
def test_a_stack_is_predicted_plane_by_plane(
    layout: str, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    only = tmp_path / "stacks"
    only.mkdir()
    plane = read_image(images / "sub/image1.tif")[..., 0]
    stack = np.stack([plane, plane[::-1], plane[:, ::-1]])
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}  # µm
    about = {"axes": "ZYX", "unit": "micron"}
    layouts: dict[str, dict[str, Any]] = {
        "ome": {"ome": True, "metadata": {"axes": "ZYX"} | scale},
        "imagej": {"imagej": True, "metadata": about, "resolution": (2, 2)},
        "plain": {"metadata": None},
    }
    tifffile.imwrite(only / "s.tif", stack, photometric="minisblack", **layouts[layout])
    tifffile.imwrite(only / "colour.tif", np.stack([stack[0]] * 3, 2), photometric="rgb")
    out = tmp_path / "out"
    assert main(argv(checkpoint, only, out, *ALL)) == 0
    task = load_task(checkpoint)
    wanted = np.stack([task.predictor.maps(image[..., None])[0] > 0.5 for image in stack])
    for kind, dtype in (("masks", np.uint8), ("labels", np.uint16), ("probabilities", np.uint16)):
        with tifffile.TiffFile(out / kind / "s.tif") as tiff:
            read = tiff.asarray()
            assert tiff.series[0].axes == ("IYX" if layout == "plain" else "ZYX")
            assert (tiff.is_ome, tiff.is_imagej) == (layout == "ome", layout == "imagej")
        assert read.shape == stack.shape and read.dtype == dtype
        np.testing.assert_array_equal(read > (2**15 - 1 if kind == "probabilities" else 0), wanted)
    assert tifffile.imread(out / "overlays/s.tif").shape == (*stack.shape, 3)
    assert cv2.imread(str(out / "overlays/colour.png")) is not None
    counts = [row for row in rows(out / "images.csv") if row["image"] == "s.tif"]
    assert [row["plane"] for row in counts] == ["0", "1", "2"]
    assert [int(row["foreground_pixels"]) for row in counts] == wanted.sum((1, 2)).tolist()
    objects = [row for row in rows(out / "objects.csv") if row["image"] == "s.tif"]
    assert len(objects) == sum(int(row["objects"]) for row in counts)
    assert {row["plane"] for row in objects} == {"0", "1", "2"}
    for row in objects:
        told = "" if layout == "plain" else str(float(row["area"]) / 4)
        assert row["area_um2"] == told
    assert next(r for r in rows(out / "images.csv") if r["image"] == "colour.tif")["plane"] == "0"
    regions = roiread(out / "rois/s.zip")
    assert {roi.position for roi in regions} == {1, 2, 3}  # type: ignore[union-attr]
    features = json.loads((out / "geojson/s.geojson").read_text())["features"]
    axis = "t" if layout == "plain" else "z"
    assert {f["geometry"]["plane"][axis] for f in features} == {0, 1, 2}
    assert {r["ImageId"] for r in rows(out / "rle.csv")} == {"s#0", "s#1", "s#2", "colour"}


def test_an_ensemble_is_the_mean_of_its_members(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = altered(checkpoint, tmp_path / "x.ckpt", lambda c: c["preprocess"].update(gamma=0.5))
    out = tmp_path / "out"
    command = argv(checkpoint, images, out, "--probabilities")
    command.insert(command.index("--ckpt_path") + 2, str(other))
    assert main(command) == 0
    assert "ensemble  of 2 checkpoints" in capsys.readouterr().out
    image = read_image(images / "image0.png")
    one, two = (segmentation.load(path, device="cpu").maps(image) for path in (checkpoint, other))
    assert np.abs(one - two).max() > 0.01
    stored = tifffile.imread(out / "probabilities/image0.tif") / 65535
    np.testing.assert_allclose(stored, (one + two)[0] / 2, atol=1e-5)
    sums = json.loads((out / "manifest.json").read_text())["settings"]["checkpoint_sha256"]
    assert len(set(sums)) == 2


UNET = {"in_channels": 3, "classes": 3, "width": 4, "depth": 2}


def test_members_of_an_ensemble_must_agree(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["target"] = {"class_path": "segmentation.targets.Contour"}
        config["net"] = {"class_path": "segmentation.models.UNet", "init_args": UNET}

    other = altered(checkpoint, tmp_path / "contour.ckpt", change)
    command = argv(checkpoint, images, tmp_path / "out")
    command.insert(command.index("--ckpt_path") + 2, str(other))
    line = refusal(capsys, command)
    assert "contour.ckpt: its target is Contour (3 classes)" in line
    assert "the first's Foreground (1 classes)" in line and not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/must-not-exist"),))  # type: ignore[return-value]


def test_checkpoints_of_another_kind_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.ckpt"
    for write, said in (
        (lambda: path.write_text("hello"), "not a checkpoint"),
        (lambda: path.write_bytes(b""), "not a checkpoint"),
        (lambda: torch.save({"state_dict": {}}, path), "of another kind"),
        (lambda: torch.save([1, 2], path), "of another kind"),
        (lambda: torch.save({"a": Evil()}, path), "could run code"),
        (lambda: path.write_bytes(pickle.dumps(Evil())), "not a checkpoint"),
    ):
        write()
        line = refusal(capsys, argv(path, images, tmp_path / "out"))
        assert said in line and "x.ckpt" in line
    assert not (tmp_path / "out").exists() and not Path("/tmp/must-not-exist").exists()


def test_bad_arguments(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "no such folder" in refusal(capsys, argv(checkpoint, tmp_path / "nope", out))
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refusal(capsys, argv(checkpoint, tmp_path / "empty", out))
    assert "--device" in refusal(capsys, argv(checkpoint, images, out, "--device", "warp9"))
    assert "required: output" in refusal(capsys, ["predict", "--ckpt_path=x", "--data.images=y"])
    assert "--labels" in refusal(capsys, argv(checkpoint, images, out, "--labels", "gif"))
    assert "/dev/null" in refusal(capsys, argv(checkpoint, images, Path("/dev/null/out")))
    for inside in (images, images / "out"):
        line = refusal(capsys, argv(checkpoint, images, inside))
        assert "lies in the images' folder" in line and "use another --output" in line
    assert not out.exists()


def test_two_processes_share_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    """Five images: each once, none again, and one table; killed and started again, it goes on."""
    images = make_images(tmp_path)
    for name in ("image3.png", "image4.png"):
        shutil.copy(images / "image0.png", images / name)
    (images / "text.png").write_text("hello")
    assert main(argv(checkpoint, images, tmp_path / "one", *ALL)) == 1
    two = argv(checkpoint, images, tmp_path / "two", *ALL)
    done = subprocess.run(
        [sys.executable, "-m", "segmentation", *two, "--trainer.devices=2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert done.stdout.count("(5 images)") == 1 and done.stderr.count("left out") == 1
    wanted = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == wanted
    (tmp_path / "two/labels/sub/image1.tif").unlink()
    assert main(two) == 1  # then all but one are done
    assert contents(tmp_path / "two") == wanted


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_lies_outside_is_never_touched(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """A state file is data, of whoever wrote it."""
    out = tmp_path / "out"
    assert main(argv(checkpoint, images, out)) == 0
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (out / "link").symlink_to(tmp_path)
    for number, name in enumerate(("../precious.txt", str(precious), "link/precious.txt")):
        state = out / ".state/image0.png.json"
        content = json.loads(state.read_text().splitlines()[0])
        crafted = json.dumps({**content, "stamp": f"{number}", "outputs": [name]})
        state.write_text(f'{crafted}\n["objects", {{"area": 1, "evil": 2}}]\n')
        assert main(argv(checkpoint, images, out)) == 0
        assert precious.read_text() == "mine" and (out / "masks/image0.png").is_file()
        assert "evil" not in (out / "objects.csv").read_text()
