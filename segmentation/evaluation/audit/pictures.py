"""Pictures of an audit's page, as text: outlined images."""

import numpy as np

from segmentation.data.preprocess import Preprocess, resize_image, resize_labels
from segmentation.data.sample import Sample
from segmentation.evaluation.html import data_url
from segmentation.evaluation.overlays import tint

OUTLINE = (255, 225, 25)
ODD = (255, 40, 40)
LARGEST = 320  # pixels of a picture's longer side
WINDOW = 96  # pixels around an odd object


def side_by_side(first: Sample, second: Sample) -> str:
    """Two images of one size with their masks outlined, and where the masks differ, as a data URL.

    In the third panel foreground of both is purple, of the first alone yellow, of the second alone
    green.
    """
    panels, masks = [], []
    for sample in (first, second):
        rgb, labels = _shrunk(sample)
        panels.append(outlined(rgb, labels))
        masks.append(labels > 0)
    panels.append(tint(_shrunk(first)[0], masks[1], masks[0], opacity=0.6))
    bar = np.full((len(panels[0]), 4, 3), 255, np.uint8)
    return data_url(np.hstack([panels[0], bar, panels[1], bar, panels[2]]))


def closeup(sample: Sample, number: int, x: int, y: int) -> str:
    """The surroundings of object ``number``, outlined in red, enlarged, as a data URL."""
    assert sample.labels is not None
    (height, width), half = sample.labels.shape, WINDOW // 2
    left, top = max(0, min(x - half, width - WINDOW)), max(0, min(y - half, height - WINDOW))
    window = np.s_[top : top + WINDOW, left : left + WINDOW]
    rgb = Preprocess(channels=3).prepare(sample.image[window])  # shows what is dim in its image
    labels = sample.labels[window]
    scale = 2
    size = rgb.shape[0] * scale, rgb.shape[1] * scale
    rgb, labels = resize_image(rgb, size), resize_labels(labels.astype(np.int32), size)
    return data_url(outlined(outlined(rgb, labels), np.where(labels == number, labels, 0), ODD))


def outlined(
    rgb: np.ndarray, labels: np.ndarray, colour: tuple[int, int, int] = OUTLINE
) -> np.ndarray:
    """(H, W, 3) uint8 with the outermost pixels of each object of (H, W) ids coloured."""
    padded = np.pad(labels, 1)
    inner = labels == padded[:-2, 1:-1]
    for neighbour in (padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inner &= labels == neighbour
    drawn = rgb.copy()
    drawn[(labels > 0) & ~inner] = colour
    return drawn


def _shrunk(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 with its contrast stretched and the labels, both no larger than a picture."""
    rgb = Preprocess(channels=3).prepare(sample.image)
    height, width = rgb.shape[:2]
    labels = np.zeros((height, width), np.int32) if sample.labels is None else sample.labels
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(rgb, size), resize_labels(labels.astype(np.int32), size)
