"""Pictures of labels and of a prediction's errors, and how a page holds them."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from segmentation.data.preprocess import Preprocess

OUTLINE = (255, 225, 25)
# RGB: true positive purple, false negative yellow, false positive green.
TRUE_POSITIVE = (160, 32, 240)
FALSE_NEGATIVE = (255, 225, 25)
FALSE_POSITIVE = (0, 200, 0)
UNKNOWN = (128, 128, 128)  # stripes over what is not annotated
# Of classes: Okabe and Ito's, which colour-blind people can tell apart, too.
_CLASSES = {
    "orange": (230, 159, 0),
    "light blue": (86, 180, 233),
    "green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "blue": (0, 114, 178),
    "red": (213, 94, 0),
    "pink": (204, 121, 167),
}
# Of channels, whose light adds up: the first two, magenta and green, anybody can tell apart.
_CHANNELS = ((255, 0, 255), (0, 255, 0), (0, 128, 255), (255, 128, 0), (255, 255, 0))


def display(channels: int) -> Preprocess:
    """How an image of so many channels is made visible: bright, but otherwise as it is."""
    return Preprocess("rgb") if channels in (1, 3) else Preprocess(tuple(range(channels)))


def composite(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 as colours, (H, W, 3): gray, RGB, else each channel in a colour of its own.

    >>> composite(np.full((1, 1, 2), 100, np.uint8)).tolist()
    [[[100, 100, 100]]]
    """
    count = image.shape[2]
    if count in (1, 3):
        return np.repeat(image, 3, axis=2) if count == 1 else image
    colours = np.array([_CHANNELS[i % len(_CHANNELS)] for i in range(count)], np.float32) / 255
    mixed: np.ndarray = (image.astype(np.float32) @ colours).clip(0, 255).round().astype(np.uint8)
    return mixed


def to_rgb(image: np.ndarray) -> np.ndarray:
    """An image as read, (H, W, C) uint8 or uint16, to be looked at: (H, W, 3) uint8."""
    return composite(display(image.shape[2]).prepare(image))


def in_a_row(*panels: np.ndarray) -> np.ndarray:
    """Panels (H, W, 3) uint8 of one height, with white bars of four pixels between them."""
    bar = np.full((len(panels[0]), 4, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (bar, panel)][1:])


def tint(rgb: np.ndarray, predicted: np.ndarray, truth: np.ndarray, opacity: float) -> np.ndarray:
    """Colour hits and errors of (H, W, 3) uint8; true negatives are left as they are.

    ``truth`` is bool, or above 0 in objects and below 0 where it is not annotated: hatched.
    """
    unknown, truth = truth < 0, truth > 0
    predicted = predicted & ~unknown
    colours = np.zeros((2, 2, 3), np.float32)  # [truth, predicted]
    colours[1, 1], colours[1, 0], colours[0, 1] = TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE
    wanted = colours[truth.astype(np.intp), predicted.astype(np.intp)]
    alpha = opacity * (truth | predicted)[..., None]
    tinted: np.ndarray = (rgb * (1 - alpha) + wanted * alpha).round().astype(np.uint8)
    return hatched(tinted, unknown)


def hatched(rgb: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with gray stripes where (H, W) bool says so, in place."""
    rows, columns = np.nonzero(unknown)
    stripes = (rows + columns) % 8 < 2
    rgb[rows[stripes], columns[stripes]] = UNKNOWN
    return rgb


def class_colour(number: int) -> tuple[int, int, int]:
    """The colour of a class 1…K as red, green, blue; every eighth has the same."""
    return [*_CLASSES.values()][(number - 1) % len(_CLASSES)]


def class_legend(names: Sequence[str]) -> str:
    """Which class has which colour.

    >>> class_legend(["tumour", "stroma"])
    'tumour: orange, stroma: light blue'
    """
    colours = [*_CLASSES]
    return ", ".join(f"{name}: {colours[i % len(colours)]}" for i, name in enumerate(names))


def tint_classes(rgb: np.ndarray, classes: np.ndarray, opacity: float) -> np.ndarray:
    """(H, W, 3) uint8, each pixel of an (H, W) class above 0 in its colour, below 0 hatched."""
    unknown, classes = classes < 0, np.maximum(classes, 0)
    count = int(classes.max(initial=0))
    colours = np.array([(0, 0, 0), *(class_colour(i) for i in range(1, count + 1))], np.float32)
    alpha = opacity * (classes > 0)[..., None]
    tinted = (rgb * (1 - alpha) + colours[classes] * alpha).round().astype(np.uint8)
    return hatched(tinted, unknown)


def on_one_size(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Put images (H, W, 3) on white canvases as high and wide as the highest and the widest."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    gaps = [((0, height - len(i)), (0, width - i.shape[1]), (0, 0)) for i in images]
    return [np.pad(i, gap, constant_values=255) for i, gap in zip(images, gaps, strict=True)]


def outline(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Whether a pixel is among the outermost ``width`` ones of its object: (H, W) ids ► bool.

    >>> outline(np.ones((3, 4), int)).astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    ids = np.pad(labels, width).astype(np.float32)  # OpenCV's filters do not know 32-bit integers
    mixed = cv2.erode(ids, disc) != cv2.dilate(ids, disc)
    return np.asarray((labels > 0) & mixed[width:-width, width:-width])


def outlined(
    rgb: np.ndarray, labels: np.ndarray, colour: tuple[int, int, int] = OUTLINE
) -> np.ndarray:
    """(H, W, 3) uint8 with the outermost pixels of each object of (H, W) ids coloured."""
    drawn = rgb.copy()
    drawn[outline(labels)] = colour
    return drawn


def data_url(rgb: np.ndarray, lossless: bool = False) -> str:
    """(H, W, 3) uint8 inside a URL: as a PNG, or a JPEG that keeps thin lines in their colours."""
    kind = "png" if lossless else "jpeg"
    fine = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [] if lossless else [cv2.IMWRITE_JPEG_QUALITY, 85, *fine]
    done, data = cv2.imencode(f".{kind}", np.ascontiguousarray(rgb[..., ::-1]), options)
    assert done
    return f"data:image/{kind};base64," + base64.b64encode(data.tobytes()).decode()
