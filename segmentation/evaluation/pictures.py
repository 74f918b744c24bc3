"""An image with its true and predicted objects, and what became of each of them in colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from segmentation.data.classes import classes_of
from segmentation.data.resize import resize_image, resize_labels
from segmentation.evaluation import overlays
from segmentation.metrics.counts import KINDS, kind_counts, object_kinds, overlaps, scored_objects

Colours = Literal["objects", "pixels"]

# By the places of KINDS, from 1 on: Okabe and Ito's, which colour-blind people can tell apart.
OF_KINDS = {
    "found": ("blue", (0, 114, 178)),
    "missed": ("yellow", (240, 228, 66)),
    "false": ("red", (213, 94, 0)),
    "merged": ("pink", (204, 121, 167)),
    "split": ("green", (0, 158, 115)),
}
OF_PIXELS = {
    "right": ("purple", overlays.TRUE_POSITIVE),
    "missed": ("yellow", overlays.FALSE_NEGATIVE),
    "too much": ("green", overlays.FALSE_POSITIVE),
}
LINES = "solid outlines: predicted objects, dashed ones: true objects"
_DARK = 85  # mean of a background on which colours are seen through; brighter ones get outlines
_SMALL = 360  # pixels of a panel below which it is enlarged


@dataclass(frozen=True)
class Picture:
    """An image, its truth and a prediction; colours tell kinds of objects, or errors by pixels."""

    image: np.ndarray  # (H, W, C) uint8
    truth: np.ndarray  # (H, W) ids of the true objects, 0 = background, -1 = not annotated
    predicted: np.ndarray  # (H, W) ids of the predicted ones; for colours of pixels the foreground
    classes: tuple[np.ndarray, np.ndarray] | None = None  # (n + 1,) of each true, predicted id
    colours: Colours = "objects"

    def kinds(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Each pixel's kind, by its true and by its predicted object, and the counts of KINDS.

        (H, W) uint8 both: 0 background, else a place in ``KINDS`` from 1 on; 255 in the first where
        nothing is annotated.
        """
        known = self.truth >= 0
        truth = np.where(known, self.truth, 0)
        found = self.predicted if known.all() else scored_objects(self.truth, self.predicted)
        of_each = object_kinds(overlaps(truth, found))
        maps = [_painted(ids, kind) for ids, kind in zip((truth, found), of_each, strict=True)]
        maps[0][~known] = 255
        return maps[0], maps[1], kind_counts(*of_each)

    def class_maps(self) -> list[np.ndarray]:
        """Truth and prediction by class, (H, W) integers, -1 where not annotated; or neither."""
        if self.classes is None:
            return []
        true, predicted = self.classes
        return [classes_of(self.truth, true), classes_of(self.predicted, predicted)]

    def layers(self, classes: Sequence[str] = ()) -> dict[str, tuple[np.ndarray, dict[int, str]]]:
        """Maps (H, W) uint8 by title, and what their values are called, to be switched on and off.

        255 is what is not annotated. ``classes`` are the names of classes.
        """
        unknown = {255: "not annotated"} if (self.truth < 0).any() else {}
        names = dict(enumerate(KINDS, start=1)) | unknown
        if self.colours == "pixels":
            names = {1: "foreground"} | unknown
            truth = np.where(self.truth < 0, 255, self.truth > 0).astype(np.uint8)
            return {"prediction": ((self.predicted > 0).astype(np.uint8), names),
                    "truth": (truth, names)}  # fmt: skip
        true, predicted, _ = self.kinds()
        found = {"prediction": (predicted, names), "truth": (true, names)}
        names = dict(enumerate(classes, start=1)) | unknown
        titles = ("true classes", "predicted classes")
        for title, values in zip(titles, self.class_maps(), strict=False):
            found[title] = np.where(values < 0, 255, values).astype(np.uint8), names
        return found

    def overlay(self, longest: int | None = None) -> np.ndarray:
        """The image, and beside it what became of its objects: (H', W', 3) uint8, RGB.

        Of classes two more panels: truth and prediction, each class in its colour. Below them all a
        legend, with counts. Small images are enlarged; ``longest`` is what a panel's longer side is
        made smaller to.
        """
        rgb, (height, width) = overlays.composite(self.image), self.image.shape[:2]
        # Enlarged, so that lines of one pixel are thin.
        times = max(1, min(8, -(-_SMALL // max(height, width))))
        scale = min(times, (longest or np.inf) / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        if self.colours == "pixels":
            shown = {name: colour for name, (_, colour) in OF_PIXELS.items()}
            panels = [rgb, overlays.tint(rgb, self.predicted > 0, self.truth, 0.5)]
        else:
            true, predicted, counts = self.kinds()
            pairs = zip(OF_KINDS.items(), counts, strict=True)
            shown = {f"{name} {count}": colour for (name, (_, colour)), count in pairs}
            canvas = resize_image(rgb, (height * times, width * times))
            found = (self.predicted, predicted)
            wanted = self.truth, np.where(true == 255, -1, true.astype(int))
            panels = [rgb, _drawn(canvas, [found, wanted], [*shown.values()], 1)]
            # Truth and prediction.
            for ids, classes in zip((self.truth, self.predicted), self.class_maps(), strict=False):
                count = int(classes.max(initial=0))
                colours = [overlays.class_colour(i + 1) for i in range(count)]
                panels.append(_drawn(canvas, [(ids, classes)], colours))
        panels = [resize_image(panel, size) for panel in panels]
        return _with_legend(overlays.in_a_row(*panels), shown)


def _drawn(
    rgb: np.ndarray,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    colours: Sequence[tuple[int, int, int]],
    thin: int = 0,
) -> np.ndarray:
    """A picture under outlines of objects and, where its background is dark, under tints.

    Args:
        rgb: (H', W', 3) uint8, the image or larger.
        layers: (H, W) ids, and which colour each pixel has: from 1 on, 0 for none, -1 for stripes.
            Outlines of the second layer are dashed, and its tints lie below those of the first.
        colours: RGB.
        thin: The last colour whose outlines are thin, and which does not tint the second layer.
    """
    palette = np.array([(0, 0, 0), *colours], np.uint8)
    size = rgb.shape[0], rgb.shape[1]
    layers = [(resize_labels(ids, size), resize_labels(values, size)) for ids, values in layers]
    unknown = np.logical_or.reduce([values < 0 for _, values in layers])
    shown = np.zeros(size, np.intp)
    for place, (_, values) in [*enumerate(layers)][::-1]:
        shown = np.where(values > (thin if place else 0), values, shown)
    outside, width = rgb[(shown == 0) & ~unknown], max(1, round(max(size) / 480))
    if outside.size and outside.mean() < _DARK:
        mixed = (0.65 * rgb + 0.35 * palette[shown]).round().astype(np.uint8)
        rgb = np.where(shown[..., None] > 0, mixed, rgb)
    else:
        rgb = rgb.copy()
    for place, (ids, values) in enumerate(layers):
        wide = overlays.outline(ids, width + 1) & (values > thin)
        lines = wide | overlays.outline(ids, width) & (values > 0)
        if place:
            rows, columns = np.indices(size)
            lines &= (rows + 2 * columns) // (2 * width + 1) % 4 < 3
        rgb[lines] = palette[values[lines]]
    return overlays.hatched(rgb, unknown)


def predicted_ids(outputs: Any, threshold: float, colours: Colours) -> np.ndarray:
    """What a step of the task predicted, as :class:`Picture` takes it: (B, H, W) int32."""
    if colours == "pixels":
        return np.asarray((outputs["foreground"] > threshold).cpu().numpy().astype(np.int32))
    return np.asarray(outputs["instances"].numpy().astype(np.int32))


def legend(colours: Colours = "objects") -> list[tuple[str, str, str]]:
    """What is shown in which colour: its name, the colour's, and that as ``#rrggbb``.

    >>> legend("pixels")[0]
    ('right', 'purple', '#a020f0')
    """
    shown = OF_PIXELS if colours == "pixels" else OF_KINDS
    return [(kind, name, "#{:02x}{:02x}{:02x}".format(*rgb)) for kind, (name, rgb) in shown.items()]


def legend_text(colours: Colours = "objects") -> str:
    """The legend in one line.

    >>> legend_text("pixels")
    'right: purple, missed: yellow, too much: green'
    """
    return ", ".join(f"{kind}: {name}" for kind, name, _ in legend(colours))


def _painted(ids: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(H, W) ids ► places of their kinds from 1 on; ``kinds`` are in the order of the ids."""
    present, places = np.unique(ids, return_inverse=True)
    values = np.zeros(len(present), np.uint8)
    values[present > 0] = kinds + 1
    return np.asarray(values[places.reshape(ids.shape)])


def _with_legend(picture: np.ndarray, legend: dict[str, tuple[int, int, int]]) -> np.ndarray:
    """The picture above a white strip that says which colour is what, in one or more lines."""
    width = max(160, picture.shape[1])
    size = max(0.42, width / 1800)
    high, step = round(40 * size), round(26 * size)
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(size * 1.6))
    places, x, line = [], step // 2, 0
    for text in legend:
        (wide, _), _ = cv2.getTextSize(text, font, size, thick)
        if x > step and x + step + wide > width:
            x, line = step // 2, line + 1
        places.append((x, line * high))
        x += 2 * step + wide
    strip = np.full((high * (line + 1), width, 3), 255, np.uint8)
    for (text, colour), (left, top) in zip(legend.items(), places, strict=True):
        corner = (left + step * 2 // 3, top + high - high // 4)
        cv2.rectangle(strip, (left, top + high // 4), corner, colour, -1)
        cv2.putText(strip, text, (left + step, top + high * 3 // 4), font, size, (0, 0, 0), thick,
                    cv2.LINE_AA)  # fmt: skip
    gap = ((0, 0), (0, width - picture.shape[1]), (0, 0))
    return np.vstack([np.pad(picture, gap, constant_values=255), strip])
