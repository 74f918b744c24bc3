"""Pixels are what a viewer shows, and the same in training, prediction and scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segmentation.datasets.folder import FolderDataset
from segmentation.errors import UserError
from segmentation.io.images import read_image, read_mask
from segmentation.io.stacks import open_planes
from tests.regressions.conftest import Result, picture, write_pairs, write_png


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_turns_image_and_mask(tmp_path: Path, kind: str, orientation: int) -> None:
    shown, _ = picture(0, count=4)
    shown = np.repeat(shown[:, :64, None], 3, axis=2)
    stored = np.ascontiguousarray(np.rot90(shown, {1: 0, 3: 2, 6: 1, 8: 3}[orientation]))
    path = tmp_path / f"im.{kind}"
    if kind == "tif":
        tags = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(path, stored, photometric="rgb", extratags=tags)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif, quality=100)
    slack = 12 if kind == "jpg" else 0
    for found in (read_image(path), next(iter(open_planes(path)))):
        assert np.abs(found.astype(int) - shown).max() <= slack
    if kind != "jpg":
        np.testing.assert_array_equal(read_mask(path), shown[..., 0])


def test_each_file_of_a_film_gives_its_own_plane(tmp_path: Path) -> None:
    """OME-XML that every file of a film repeats names the planes of all files."""
    frames = [picture(i)[0] for i in range(3)]
    ids = [f"urn:uuid:0000000{i}-0000-0000-0000-000000000000" for i in range(3)]
    data = "".join(
        f'<TiffData FirstT="{i}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="film_t{i}.ome.tif">{ids[i]}</UUID></TiffData>'
        for i in range(3)
    )
    for i, frame in enumerate(frames):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[i]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
            'SizeX="96" SizeY="96" SizeC="1" SizeZ="1" SizeT="3">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        path = tmp_path / f"film_t{i}.ome.tif"
        tifffile.imwrite(path, frame, description=xml, metadata=None)
    (tmp_path / "film_t1.ome.tif").rename(tmp_path / "renamed.tif")  # the others lack a partner
    for name, frame in zip(("film_t0.ome", "renamed", "film_t2.ome"), frames, strict=True):
        planes = open_planes(tmp_path / f"{name}.tif")
        assert (planes.axes, len(planes)) == ("", 1)
        for found in (*planes, read_image(planes.path)):
            np.testing.assert_array_equal(found[..., 0], frame)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint32])
def test_wide_pixels_train_and_are_predicted_alike(tmp_path: Path, dtype: type) -> None:
    root = write_pairs(tmp_path, number=1)
    image = picture(0)[0]
    (root / "images/im0.png").unlink()
    tifffile.imwrite(path := root / "images/im0.tif", image.astype(dtype) / dtype(1))
    trained = next(iter(FolderDataset(root))).image
    np.testing.assert_array_equal(trained, next(iter(open_planes(path))))
    order = np.argsort(image, axis=None, kind="stable")  # brighter stays brighter
    assert (np.diff(trained.reshape(-1)[order].astype(int)) >= 0).all()


def test_channels_are_read_alike(tmp_path: Path) -> None:
    image = picture(0)[0]
    stored: dict[str, Any] = {
        "planes.tif": {"imagej": True, "metadata": {"axes": "CYX"}},
        "pages.tif": {"photometric": "minisblack", "planarconfig": "separate"},
    }
    two = np.stack([image, image // 3])
    for name, settings in stored.items():
        tifffile.imwrite(tmp_path / name, two, **settings)
    np.save(tmp_path / "array.npy", np.moveaxis(two, 0, 2))
    for path in tmp_path.iterdir():
        for found in (read_image(path), *open_planes(path)):
            np.testing.assert_array_equal(found, np.moveaxis(two, 0, 2))


def test_three_planes_are_colours_in_fit_and_predict(tmp_path: Path) -> None:
    image = picture(0)[0]
    rgb = np.stack([image, image // 2, image // 3])
    tifffile.imwrite(path := tmp_path / "x.tif", rgb, imagej=True, metadata={"axes": "CYX"})
    for found in (read_image(path), *open_planes(path)):
        np.testing.assert_array_equal(found, np.moveaxis(rgb, 0, 2))


def test_a_stack_is_refused_in_training_with_a_way_out(tmp_path: Path) -> None:
    stack = np.stack([picture(i)[0] for i in range(3)])
    tifffile.imwrite(path := tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    assert len(list(open_planes(path))) == 3
    for read in (read_image, read_mask):
        says = (
            "a stack of 3 planes; save each plane as its own file, of images and masks alike (in F"
        )
        assert says in refusal(lambda: read(path))  # noqa: B023


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float32])
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_ids_of_any_type_and_size(tmp_path: Path, dtype: type, suffix: str) -> None:
    ids = picture(0)[1].astype(dtype) * dtype(70000)
    path = tmp_path / f"im_cp_masks{suffix}"
    np.save(path, ids) if suffix == ".npy" else tifffile.imwrite(path, ids)
    np.testing.assert_array_equal(read_mask(path), ids)


def test_pickles_of_cellpose_are_never_opened(run: Callable[..., Result], tmp_path: Path) -> None:
    for i in range(2):
        image, labels = picture(i)
        write_png(tmp_path / f"images/im{i}.png", image)
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"masks/im{i}_seg.npy", {"masks": labels})  # type: ignore[arg-type]
    says = "im0_seg.npy: Cellpose's own file, a pickle, which may run code, is never opened; in"
    assert says in refusal(lambda: list(FolderDataset(tmp_path, mask_type="labels")))
    result = run("evaluate", "--truth=masks", "--prediction=masks", "--output=out")
    assert result.status == 2 and says in result.line and "NAME_cp_masks" in result.line
