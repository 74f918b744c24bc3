"""A viewer's layers, segmented plane by plane, without the viewer."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import ndimage

from segmentation.app.layers import Networks, plane_axes, segmented
from segmentation.checkpoints import load
from segmentation.errors import UserError
from segmentation.predictor import Predictor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    """Foreground is what is brighter than .4 of an image's range."""
    return load(checkpoint, device="cpu")


def squares(*counts: int) -> np.ndarray:
    """(len(counts), 40, 60) planes with so many bright squares of 6×6."""
    planes = np.full((len(counts), 40, 60), 10, np.uint8)
    for plane, count in zip(planes, counts, strict=True):
        plane[20:22, 50:52] = 11  # a plane of one value has no range
        for k in range(count):
            plane[4:10, 4 + 12 * k : 10 + 12 * k] = 240
    return planes


def result(steps: Generator[int, None, Any]) -> tuple[list[int], Any]:
    """What was yielded and what was returned."""
    done = []
    while True:
        try:
            done.append(next(steps))
        except StopIteration as end:
            return done, end.value


@pytest.mark.parametrize("lead", [(3,), (1, 3), (3, 1)])
def test_a_stack_is_segmented_plane_by_plane(lead: tuple[int, ...], predictor: Predictor) -> None:
    stack = squares(2, 3, 1).reshape(*lead, 40, 60)
    done, (labels, table) = result(segmented(lambda: predictor, stack, pixel_size=(0.5, 0.5)))
    assert done == [1, 2, 3] and labels.shape == stack.shape and labels.dtype == np.int32
    for plane, ids in zip(stack.reshape(3, 40, 60), labels.reshape(3, 40, 60), strict=True):
        theirs, count = ndimage.label(plane > 200)
        pairs = {*zip(theirs.ravel().tolist(), ids.ravel().tolist(), strict=True)}
        assert len(pairs) == count + 1 and (0, 0) in pairs
    # Each id is one object's, and its row tells where it lies.
    assert sorted(table["index"]) == [1, 2, 3, 4, 5, 6] and {*np.unique(labels)} == {*range(7)}
    for row in table.to_dict("records"):
        where = tuple(row[f"axis-{axis}"] for axis in range(len(lead)))
        found = np.argwhere(labels == row["index"])
        assert (found[:, : len(lead)] == where).all() and len(found) == row["area"] == 36
        centre = found[:, -2:].mean(axis=0)
        assert np.allclose(centre, (row["centroid_y"], row["centroid_x"]))
        assert row["area_um2"] == 9


def test_colours_and_channels_lie_on_any_axis(predictor: Predictor) -> None:
    (gray,) = squares(2)
    _, (wanted, _) = result(segmented(lambda: predictor, gray))
    colours = np.stack([gray, gray, gray, np.full_like(gray, 255)], axis=-1)  # with alpha
    channels = np.stack([gray, gray, gray])
    for data, options in (
        (colours, {"rgb": True}),
        (channels, {"channel_axis": 0}),
        (np.moveaxis(channels, 0, 1), {"channel_axis": -2}),
        (np.moveaxis(channels, 0, 2), {"channel_axis": 2}),
    ):
        _, (labels, table) = result(segmented(lambda: predictor, data, **options))
        assert np.array_equal(labels, wanted) and len(table) == 2
    stack = np.stack([channels, channels], axis=1)  # (C, Z, H, W)
    _, (labels, _) = result(segmented(lambda: predictor, stack, channel_axis=0))
    assert np.array_equal(labels[0], wanted)
    assert np.array_equal(labels[1], np.where(wanted, wanted + 2, 0))


def test_it_is_stopped_between_planes(predictor: Predictor) -> None:
    asked = []

    class Lazy:
        shape = (9, 40, 60)

        def __getitem__(self, where: Any) -> np.ndarray:
            asked.append(where[0])
            return squares(1)[0]

    steps = segmented(lambda: predictor, Lazy())
    assert [next(steps), next(steps)] == [1, 2]
    steps.close()
    assert asked == [0, 1]


def test_nothing_found_is_a_table_without_rows(predictor: Predictor) -> None:
    _, (labels, table) = result(segmented(lambda: predictor, np.full((2, 40, 60), 10, np.uint8)))
    assert not labels.any() and isinstance(table, pd.DataFrame) and not len(table)
    assert table.columns[:2].tolist() == ["index", "axis-0"]


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (np.zeros(5, np.uint8), {}, "the layer is 5: no plane"),
        (np.zeros((0, 9, 9), np.uint8), {}, "the layer is 0×9×9: no plane"),
        (np.zeros((9, 9), np.uint8), {"rgb": True}, "no plane"),
        (np.zeros((9, 9, 9), np.uint8), {"channel_axis": 3}, "channel axis 3: the layer has 3"),
        (np.zeros((9, 9), np.float32), {}, "the image is .* float32; give .* of uint8 or uint16"),
    ],
)
def test_other_layers_are_refused(
    data: np.ndarray, options: dict[str, Any], says: str, predictor: Predictor
) -> None:
    with pytest.raises(UserError, match=says):
        result(segmented(lambda: predictor, data, **options))


def test_a_network_is_loaded_once_and_again_when_it_changed(tmp_path: Path) -> None:
    class Known:
        tta = False

    loaded: list[Path] = []
    networks = Networks(lambda path: loaded.append(path) or Known())  # type: ignore[arg-type,func-returns-value,return-value]
    path = tmp_path / "a.ckpt"
    path.write_text("a")
    first = networks.get(path)
    assert networks.get(path, tta=True) is first and first.tta and loaded == [path]
    path.write_text("other")
    assert networks.get(path) is not first and len(loaded) == 2
    networks.get(tmp_path / "missing")
    networks.get(tmp_path / "missing")  # each time its error is told
    assert len(loaded) == 4


def test_planes_are_counted_before() -> None:
    assert plane_axes((2, 3, 40, 50)) == (0, 1)
    assert plane_axes((2, 3, 40, 50), channel_axis=1) == (0,)
    assert plane_axes((40, 50, 4), rgb=True) == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # npe2's of pydantic
def test_the_manifest_names_what_exists() -> None:
    manifest = yaml.safe_load((ROOT / "segmentation/napari.yaml").read_text())
    (command,) = manifest["contributions"]["commands"]
    module, _, name = command["python_name"].partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {name}()" in source
    assert manifest["contributions"]["widgets"][0]["command"] == command["id"]
    npe2 = pytest.importorskip("npe2")
    npe2.PluginManifest.from_file(ROOT / "segmentation/napari.yaml")
