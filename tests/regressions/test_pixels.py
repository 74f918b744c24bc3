"""Pixels are what a viewer shows, and the same in training, prediction and scores."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from segmentation.datasets.folder import FolderDataset
from segmentation.io.images import read_image
from segmentation.io.stacks import open_planes
from tests.errors import refuses
from tests.regressions.conftest import Result, picture, write_png


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


def test_pickles_of_cellpose_are_never_opened(run: Callable[..., Result], tmp_path: Path) -> None:
    for i in range(2):
        image, labels = picture(i)
        write_png(tmp_path / f"images/im{i}.png", image)
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"masks/im{i}_seg.npy", {"masks": labels})  # type: ignore[arg-type]
    says = "im0_seg.npy: Cellpose's own file, a pickle, which may run code, is never opened; in"
    refuses(re.escape(says), list, FolderDataset(tmp_path, mask_type="labels"))
    result = run("evaluate", "--truth=masks", "--prediction=masks", "--output=out")
    assert result.status == 2 and says in result.line and "NAME_cp_masks" in result.line
