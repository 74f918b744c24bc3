"""The panel in the viewer itself, where napari is installed, which warns of its libraries:

QT_QPA_PLATFORM=offscreen pytest -o filterwarnings=default tests/app/test_napari.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from segmentation.app import napari_plugin
from segmentation.app.napari_plugin import SegmentLayer, segment_layer
from tests.app.test_layers import squares

# Advice of libraries to each other.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the panel says."""
    said: list[str] = []
    monkeypatch.setattr(napari_plugin, "_notify", lambda line, wrong=False: said.append(line))
    return said


@pytest.fixture
def panel(make_napari_viewer: Callable[[], Any], checkpoint: Path) -> SegmentLayer:
    viewer = make_napari_viewer()
    container = segment_layer()
    viewer.window.add_dock_widget(container)
    panel: SegmentLayer = container.panel
    assert panel.network.value.name == "nuclei.ckpt"
    panel.network.value = checkpoint
    return panel


def run(panel: SegmentLayer, qtbot: Any) -> None:
    panel.run.changed.emit(True)
    assert panel.cancel.enabled and not panel.run.enabled
    with qtbot.waitSignal(panel.worker.finished, timeout=60_000):
        pass
    assert panel.run.enabled and not panel.cancel.enabled


def test_a_stack_becomes_labels_with_measurements(
    panel: SegmentLayer, qtbot: Any, told: list[str]
) -> None:
    scale = {"scale": (2, 0.5, 0.5), "translate": (0, 7, 9)}
    units = ("micrometer", "micrometer", "micrometer")
    image = panel.viewer.add_image(squares(2, 3), name="cells", units=units, **scale)
    panel.image.reset_choices()
    panel.image.value = image
    run(panel, qtbot)
    labels = panel.viewer.layers["cells objects"]
    assert labels.data.shape == (2, 40, 60) and labels.data.max() == 5
    assert np.allclose(labels.scale, image.scale)
    assert np.allclose(labels.translate, image.translate)
    assert labels.features["index"].tolist() == [1, 2, 3, 4, 5]
    assert labels.features["area_um2"].tolist() == [9.0] * 5
    assert told == ["5 objects in cells"]


def test_it_can_be_cancelled(panel: SegmentLayer, qtbot: Any, told: list[str]) -> None:
    panel.viewer.add_image(np.concatenate([squares(1)] * 500), name="long")
    panel.image.reset_choices()
    panel.run.changed.emit(True)
    with qtbot.waitSignal(panel.worker.finished, timeout=60_000):
        panel.cancel.changed.emit(True)
    assert told == ["Segmentation was cancelled"] and len(panel.viewer.layers) == 1


def test_what_is_wrong_is_said_in_a_line(
    panel: SegmentLayer, qtbot: Any, told: list[str], tmp_path: Path
) -> None:
    panel.run.changed.emit(True)
    assert told.pop() == "there is no image layer; open an image"
    panel.viewer.add_image(squares(1)[0].astype(np.float32))
    panel.image.reset_choices()
    run(panel, qtbot)
    assert "float32; give (H, W)" in told.pop()
    panel.network.value = tmp_path / "none.ckpt"
    run(panel, qtbot)
    assert "none.ckpt: no such checkpoint" in told.pop()
    panel.channel_axis.value = "C"
    panel.run.changed.emit(True)
    assert "channel axis C: must be a whole number" in told.pop()
