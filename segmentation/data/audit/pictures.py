"""Pictures of an audit's page, as text: outlined images, and histograms drawn as SVG."""

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from segmentation.data.preprocess import Preprocess, resize_image, resize_labels
from segmentation.data.sample import Sample
from segmentation.overlays import tint

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
    rgb = Preprocess(channels=3).prepare(sample.image)[window]
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


def data_url(rgb: np.ndarray) -> str:
    """(H, W, 3) uint8 as a JPEG inside a URL."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], mark: float | None = None
) -> str:
    """An SVG of counts between edges, the counts on a log scale; every bin is equally wide.

    Args:
        title: Written above.
        edges: One more than counts.
        counts: At least one.
        mark: A value to draw a line at.
    """
    width, height, left, base = 460, 150, 40, 150
    heights = np.log10(np.array(counts, float) + 1)
    top = max(1.0, float(np.ceil(heights.max())))
    step = (width - left) / len(counts)
    shapes = [f'<text x="{left}" y="12" class="t">{escape(title)}</text>']
    for power in range(int(top) + 1):
        y = base - (height - 24) * float(np.log10(10**power + 1)) / top
        shapes.append(f'<text x="{left - 4}" y="{y + 4:.1f}" class="r">{10**power:,}</text>')
        shapes.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
    for i, (count, tall) in enumerate(zip(counts, heights * (height - 24) / top, strict=True)):
        if count:
            about = f"{edges[i]:.3g} – {edges[i + 1]:.3g}: {count:,}"
            shapes.append(
                f'<rect x="{left + i * step:.1f}" y="{base - tall:.1f}" width="{step - 1:.1f}" '
                f'height="{tall:.1f}"><title>{about}</title></rect>'
            )
    for i in np.linspace(0, len(counts), 6).round().astype(int):
        x, anchor = left + i * step, "end" if i == len(counts) else "middle"
        shapes.append(
            f'<text x="{x:.1f}" y="{base + 14}" text-anchor="{anchor}">{edges[i]:.3g}</text>'
        )
    if mark is not None:
        x = left + step * float(np.interp(mark, edges, range(len(edges))))
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{base}" class="m"/>')
    return f'<svg viewBox="0 0 {width + 8} {base + 20}" role="img">{"".join(shapes)}</svg>'


def histogram_of(title: str, values: Sequence[float], log: bool = False) -> str:
    """The histogram of numbers, at least one; ``log`` makes bins of equal ratio, from 1 on."""
    low, high = min(values), max(values)
    if log:
        edges = np.geomspace(max(1, low), max(2, high, low + 1), 31)
        counts = np.histogram(np.maximum(values, 1), edges)[0]
    else:
        edges = np.linspace(low, high if high > low else low + 1, 31)
        counts = np.histogram(values, edges)[0]
    return histogram(title, edges.tolist(), counts.tolist())


def _shrunk(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 with its contrast stretched and the labels, both no larger than a picture."""
    rgb = Preprocess(channels=3).prepare(sample.image)
    height, width = rgb.shape[:2]
    labels = np.zeros((height, width), np.int32) if sample.labels is None else sample.labels
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(rgb, size), resize_labels(labels.astype(np.int32), size)
