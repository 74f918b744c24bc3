"""A panel of the viewer napari: a trained network segments an image layer or a stack.

napari is an extra: it is imported by those who open the panel, from within it.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.app.layers import Networks, Segmented, pixel_size_of, plane_axes, segmented
from segmentation.checkpoints import load
from segmentation.errors import UserError
from segmentation.networks import FOLDER


def segment_layer() -> Any:
    """The panel for the viewer that asks for it, as the manifest ``napari.yaml`` names it."""
    import napari

    return SegmentLayer(napari.current_viewer()).container


class SegmentLayer:
    """Choose a network and a layer; the objects come as a layer of labels, measured.

    Args:
        viewer: The napari viewer whose layers are segmented.
    """

    def __init__(self, viewer: Any) -> None:
        from magicgui import widgets
        from napari.layers import Image

        self.viewer, self.worker = viewer, None
        self.networks = Networks(lambda path: load(path))
        self.network = widgets.FileEdit(
            label="network",
            value=FOLDER / "nuclei.ckpt",
            filter="Networks (*.ckpt *.onnx *.xml *.pt)",
        )
        self.image = widgets.create_widget(annotation=Image, label="image")
        tip = "Empty: gray, or colours"
        self.channel_axis = widgets.LineEdit(label="channel axis", tooltip=tip)
        self.tta = widgets.CheckBox(text="eight symmetries: better, 8 times slower")
        self.run = widgets.PushButton(text="Segment")
        self.cancel = widgets.PushButton(text="Cancel", enabled=False)
        parts = [self.network, self.image, self.channel_axis, self.tta, self.run, self.cancel]
        self.container = widgets.Container(widgets=parts)
        self.container.panel = self  # signals know it weakly
        self.run.changed.connect(self.start)
        self.cancel.changed.connect(self.stop)

    def start(self) -> None:
        """Segment the chosen layer in a thread; what is wrong is shown, not raised."""
        from napari.qt.threading import create_worker

        try:
            layer, options = self.image.value, self._options()
        except UserError as error:
            return _notify(str(error), wrong=True)
        shape, of_channels = options["data"].shape, options["channel_axis"]
        axes = plane_axes(shape, options["rgb"], of_channels)
        path, tta = Path(self.network.value), bool(self.tta.value)
        worker = create_worker(
            _planes_done,
            lambda: self.networks.get(path, tta),
            **options,
            _start_thread=False,
            _ignore_errors=True,  # they are shown below
            _progress={
                "total": int(np.prod([shape[axis] for axis in axes], dtype=int)),
                "desc": f"Segmenting {layer.name}",
            },
        )
        worker.returned.connect(lambda found: self.add_objects(layer, of_channels, found))
        worker.errored.connect(lambda error: _notify(_gist(error), wrong=True))
        worker.aborted.connect(lambda: _notify("Segmentation was cancelled"))
        worker.finished.connect(lambda: self._enable(True))
        self.worker = worker
        self._enable(False)
        worker.start()

    def stop(self) -> None:
        """Stop after the plane that is at work."""
        if self.worker is not None:
            self.worker.quit()

    def add_objects(self, layer: Any, channel_axis: int | None, found: Segmented) -> None:
        """Add the objects as a layer where the image's is."""
        labels, table = found
        place: dict[str, Any] = {}
        for name in ("scale", "translate", "units"):
            values = list(getattr(layer, name, ()))
            if channel_axis is not None and values:
                del values[channel_axis]
            if values:
                place[name] = values
        self.viewer.add_labels(labels, name=f"{layer.name} objects", features=table, **place)
        _notify(f"{len(table)} objects in {layer.name}")

    def _options(self) -> dict[str, Any]:
        """What :func:`segmented` takes of the chosen layer."""
        layer, typed = self.image.value, str(self.channel_axis.value).strip()
        if layer is None:
            raise UserError("there is no image layer; open an image")
        if str(self.network.value) in ("", "."):
            raise UserError("choose a network: a checkpoint that fit wrote, or an export")
        if typed and not typed.lstrip("-").isdecimal():
            raise UserError(f"channel axis {typed}: must be a whole number, or empty")
        data = layer.data[0] if layer.multiscale else layer.data
        channel_axis = int(typed) if typed and not layer.rgb else None
        plane_axes(data.shape, layer.rgb, channel_axis)
        return {
            "data": data,
            "rgb": bool(layer.rgb),
            "channel_axis": channel_axis,
            "pixel_size": pixel_size_of(layer.scale, getattr(layer, "units", ())),
        }

    def _enable(self, idle: bool) -> None:
        self.run.enabled, self.cancel.enabled = idle, not idle


def _planes_done(*args: Any, **options: Any) -> Generator[int, None, Segmented]:
    """:func:`segmented`; of a ``RuntimeError`` the viewer thinks that the worker is gone."""
    try:
        return (yield from segmented(*args, **options))
    except RuntimeError as error:  # want of memory, say
        gist = str(error).strip().partition("\n")[0]
        raise UserError(f"this layer cannot be segmented here ({gist})") from error


def _notify(line: str, wrong: bool = False) -> None:
    from napari.utils import notifications

    (notifications.show_error if wrong else notifications.show_info)(line)


def _gist(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
