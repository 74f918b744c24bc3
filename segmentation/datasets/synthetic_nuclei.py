"""Seeded synthetic images of nuclei and their label maps.

The images are hard for the reason real ones are: the nuclei of one image differ in brightness by
several times and the background is uneven, so no global threshold works, while every nucleus has a
visible edge. Debris, blood cells and things out of focus resemble nuclei in brightness or in size,
never in brightness, size, sharpness and colour at once.
"""

from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

Kind = Literal["fluorescence", "brightfield", "histology"]
Rng = np.random.Generator
Range = tuple[float, float]
Shape = tuple[int, int]  # (height, width)

_SMALLEST_NUCLEUS = 20  # visible area, pixels

# How the nuclei of an image look; one value of each range is drawn per image. Columns: stain of
# the palest nucleus (the strongest has 1); as shares of a nucleus's stain, the lack at its border,
# the excess in its rim, the texture's spread and the excess in nucleoli; and the share of a lower
# nucleus that an upper one hides.
_LOOKS: dict[str, tuple[Range, ...]] = {
    "fluorescence": ((0.08, 0.25), (0.2, 0.5), (0.0, 0.0), (0.06, 0.2), (-0.4, 0.7), (0.6, 0.6)),
    "brightfield": ((0.20, 0.35), (0.1, 0.3), (0.0, 0.3), (0.06, 0.2), (0.1, 0.5), (0.3, 0.3)),
    "histology": ((0.28, 0.45), (0.0, 0.2), (0.0, 0.4), (0.12, 0.3), (0.1, 0.6), (0.3, 0.3)),
}

# Optical density in red, green and blue: haematoxylin leaves blue light, eosin red (pink).
_HAEMATOXYLIN, _EOSIN = np.array([0.68, 0.72, 0.30]), np.array([0.10, 0.62, 0.26])


class _Nucleus(NamedTuple):
    """One nucleus in its bounding box, cut at the image's border; (y, x) of its centre.

    ``depth`` is the distance in pixels to the outline on the ray from the centre, > 0 inside.
    """

    box: tuple[slice, slice]
    depth: np.ndarray
    centre: np.ndarray
    radius: float


def make_nuclei(rng: Rng, height: int, width: int, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of nuclei, (H, W, 3) uint8 RGB, and its (H, W) int32 label map.

    Each label is one 4-connected region of 20 pixels or more. An unknown kind or a side under 32
    pixels is a ``ValueError``.

    >>> image, labels = make_nuclei(np.random.default_rng(0), 64, 80, "fluorescence")
    >>> image.shape, labels.shape, bool(labels.max() > 0)
    ((64, 80, 3), (64, 80), True)
    """
    image, labels = render_nuclei(rng, (height, width), kind)
    return in_levels(image, 8), labels


def in_levels(image: np.ndarray, bits: int) -> np.ndarray:
    """From [0, 1] to uint8 0..255 (8 bits) or uint16 0..4095 (16 bits)."""
    levels, dtype = (255, np.uint8) if bits == 8 else (4095, np.uint16)
    return np.asarray(np.rint(image * levels)).astype(dtype)


def render_nuclei(rng: Rng, shape: Shape, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`make_nuclei`, with the image float32 in [0, 1]."""
    if kind not in get_args(Kind) or min(shape) < 32:
        raise ValueError(
            f"{kind} of {shape} pixels: expected one of {', '.join(get_args(Kind))}, at least 32 "
            "pixels high and wide"
        )
    nuclei, labels = _scatter_nuclei(rng, shape)
    stain = _paint(rng, shape, nuclei, _LOOKS[kind])
    develop = {"fluorescence": _fluorescence, "brightfield": _brightfield, "histology": _histology}
    image = np.clip(develop[kind](rng, stain), 0, 1).astype(np.float32)
    return (image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)), labels


def _scatter_nuclei(rng: Rng, shape: Shape) -> tuple[list[_Nucleus], np.ndarray]:
    """Place nuclei, later ones above earlier ones, and label what stays visible of each."""
    typical = min(_log_uniform(rng, 5.5, 15), min(shape) / 6)
    spread, elongation, wobble = rng.uniform((0.08, 0.1, 0.1), (0.3, 0.8, 0.5))
    main_angle, disorder = rng.uniform(0, np.pi), rng.choice([0.4, 3.0])
    crowding, overlap = rng.uniform((0.0, 0.02), (0.7, 0.3))
    most = int(rng.integers(1, 5)) if rng.random() < 0.1 else 400
    wanted = rng.uniform(0.06, 0.3) * shape[0] * shape[1]
    nuclei: list[_Nucleus] = []
    labels = np.zeros(shape, np.int32)
    visible = np.zeros(most + 1, np.int64)  # pixels of each label
    for _ in range(800):
        if len(nuclei) == most or visible.sum() >= wanted:
            break
        radius = float(np.clip(typical * np.exp(rng.normal(0, spread)), 4, 20))
        centre = rng.uniform((0, 0), shape)
        if nuclei and rng.random() < crowding:
            other = nuclei[rng.integers(len(nuclei))]
            turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.1)
            step = np.array([np.sin(turn), np.cos(turn)])
            centre = other.centre + reach * (radius + other.radius) * step
        if not (0 <= centre[0] < shape[0] and 0 <= centre[1] < shape[1]):
            continue
        angle = main_angle + disorder * rng.normal()
        nucleus = _outline(rng, shape, centre, radius, 1 + elongation * rng.random(), angle, wobble)
        inside = nucleus.depth > 0
        area = int(inside.sum())
        hidden = np.bincount(labels[nucleus.box][inside], minlength=most + 1)
        hidden[0] = 0
        too_hidden = hidden.sum() > overlap * area or (hidden > 0.35 * visible).any()
        if area < 2 * _SMALLEST_NUCLEUS or too_hidden:
            continue
        nuclei.append(nucleus)
        labels[nucleus.box][inside] = len(nuclei)
        visible -= hidden
        visible[len(nuclei)] = area
    return nuclei, main_parts(labels)


def _outline(
    rng: Rng, shape: Shape, centre: np.ndarray, radius: float, aspect: float, angle: float,
    wobble: float,
) -> _Nucleus:  # fmt: skip
    """A deformed ellipse. It is star-shaped about its centre, hence connected."""
    half = 1.5 * radius * aspect**0.5 + 2
    low = np.maximum(centre - half, 0).astype(int)
    high = np.minimum(centre + half + 1, shape).astype(int)
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    y, x = y - centre[0], x - centre[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / aspect**0.5
    across = (y * np.cos(angle) - x * np.sin(angle)) * aspect**0.5
    turn = np.arctan2(across, along)
    limit = np.ones_like(turn)
    for order in (2, 3, 4, 5):
        swing = np.clip(rng.normal(0, 0.7), -1.4, 1.4) * wobble / order**1.5
        limit += swing * np.cos(order * turn + rng.uniform(0, 2 * np.pi))
    depth = (radius * limit - np.hypot(along, across)).astype(np.float32)
    return _Nucleus((slice(low[0], high[0]), slice(low[1], high[1])), depth, centre, radius)


def main_parts(labels: np.ndarray) -> np.ndarray:
    """Keep the largest 4-connected part of each label if it has 20 pixels; ids become 1..n."""
    kept = np.zeros_like(labels)
    count = 0
    for label in range(1, labels.max() + 1):
        mask = (labels == label).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        if areas.size and areas.max() >= _SMALLEST_NUCLEUS:
            count += 1
            kept[parts == 1 + areas.argmax()] = count
    return kept


def _paint(rng: Rng, shape: Shape, nuclei: list[_Nucleus], look: tuple[Range, ...]) -> np.ndarray:
    """The amount of stain, (H, W) float32: 0 outside the nuclei, about 0.1 to 1 inside."""
    palest, dome, rim, grain, spots, opaque = (rng.uniform(*span) for span in look)
    texture = 0.7 * clouds(rng, shape, 1.6) + 0.7 * clouds(rng, shape, 4)
    canvas = np.zeros(shape, np.float32)
    for nucleus in nuclei:
        cover = np.clip(nucleus.depth + 0.5, 0, 1)
        middle = np.clip(nucleus.depth / nucleus.radius, 0, 1)
        body = 1 - dome * (1 - middle) ** 2 + grain * texture[nucleus.box]
        body += rim * np.exp(-(((nucleus.depth - 1.5) / 1.5) ** 2))
        for _ in range(rng.integers(1, 5)):
            at = nucleus.centre + nucleus.radius * rng.uniform(-0.5, 0.5, 2)
            widths = np.full(2, max(0.8, nucleus.radius * rng.uniform(0.08, 0.18)))
            body += spots * rng.uniform(0.4, 1) * _spot(nucleus.box, at, widths)
        amount = _log_uniform(rng, palest, 1) * np.clip(body, 0.3, None)
        # Opacity keeps the upper nucleus's edge visible: plain addition would hide a pale one.
        canvas[nucleus.box] = canvas[nucleus.box] * (1 - opaque * cover) + amount * cover
    return canvas


def _fluorescence(rng: Rng, stain: np.ndarray) -> np.ndarray:
    """(H, W): light emitted by the nuclei, by things out of focus and by the medium."""
    shape = stain.shape
    light = blur(stain, rng.uniform(0.6, 1.2))
    light += rng.uniform(0.2, 0.8) * blur(stain, rng.uniform(8, 20))
    light += _debris(rng, shape, 6, width=(6, 14), strength=(0.06, 0.25))
    light += _debris(rng, shape, 15, width=(0.5, 1.1), strength=(0.3, 1.5))
    light += rng.uniform(0.02, 0.12) * (1 + 0.3 * clouds(rng, shape, 60))
    light *= _illumination(rng, shape, rng.uniform(0.25, 0.6))
    image = _camera(rng, light, _log_uniform(rng, 250, 2000))
    image *= _log_uniform(rng, 0.25, 1.0) / np.quantile(light, 0.998)
    return image + 0.01


def _brightfield(rng: Rng, stain: np.ndarray) -> np.ndarray:
    """(H, W): light that passed through dark nuclei, pale cytoplasm and dust."""
    shape = stain.shape
    cells = blur((stain > 0).astype(np.float32), rng.uniform(3, 8))
    density = 0.9 * blur(stain, rng.uniform(0.7, 1.2)) + rng.uniform(0.03, 0.12) * cells
    density += _debris(rng, shape, 6, width=(6, 14), strength=(0.08, 0.35))
    density += _debris(rng, shape, 12, width=(0.6, 1.2), strength=(0.3, 1.0))
    density += 0.03 * clouds(rng, shape, 5) + 0.05 * clouds(rng, shape, 25)
    light = _illumination(rng, shape, rng.uniform(0.35, 0.6)) * np.exp(-density)
    return rng.uniform(0.75, 0.95) * _camera(rng, light, _log_uniform(rng, 800, 4000))


def _histology(rng: Rng, stain: np.ndarray) -> np.ndarray:
    """(H, W, 3): light that passed through haematoxylin (nuclei) and eosin (the rest)."""
    shape = stain.shape
    ground = clouds(rng, shape, rng.uniform(40, 90)) + rng.uniform(-0.2, 1.4)
    tissue = 1 / (1 + np.exp(-6 * ground))  # 0 where the slide is empty
    fibres = 0.6 * clouds(rng, shape, 7) + rng.uniform(0, 0.8) * _fibres(rng, shape)
    pink = tissue * rng.uniform(0.15, 0.75) * np.clip(1 + 0.4 * fibres, 0.2, None)
    pink = np.maximum(pink, _blood(rng, shape, most=int(rng.choice([0, 0, 14]))))
    blue = 1.6 * stain + tissue * rng.uniform(0.02, 0.25) * (1 + 0.3 * clouds(rng, shape, 12))
    blue += _debris(rng, shape, 6, width=(6, 14), strength=(0.1, 0.4))
    blue += _debris(rng, shape, 12, width=(0.6, 1.2), strength=(0.4, 1.5))
    stains = [_HAEMATOXYLIN * rng.uniform(0.85, 1.15, 3), _EOSIN * rng.uniform(0.8, 1.2, 3)]
    density = blur(np.stack([blue, pink], axis=2), rng.uniform(0.6, 1.1)) @ np.stack(stains)
    white = rng.uniform(0.88, 0.98) * rng.uniform(0.96, 1.02, 3)
    light = _illumination(rng, shape, rng.uniform(0.6, 0.85))[..., None] * np.exp(-density)
    image = _camera(rng, light, _log_uniform(rng, 1000, 5000))
    image *= white
    return image


def _camera(rng: Rng, light: np.ndarray, full: float) -> np.ndarray:
    """Add the shot noise of ``full`` photons where the light is 1, and read noise."""
    counted = np.asarray(rng.poisson(np.clip(light, 0, None) * full) / full)
    counted += rng.normal(0, 0.004, light.shape)
    return counted


def _illumination(rng: Rng, shape: Shape, darkest: float) -> np.ndarray:
    """(H, W): 1 at a bright place somewhere in the field, falling to ``darkest``."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    at = rng.uniform(-0.8, 0.8, 2)
    fall = np.asarray((y - at[0]) ** 2 + (x - at[1]) ** 2)
    fall += 0.2 * clouds(rng, shape, max(shape) / 2)
    return np.asarray(np.interp(fall, (fall.min(), fall.max()), (1, darkest)))


def clouds(rng: Rng, shape: Shape, scale: float) -> np.ndarray:
    """(H, W): smooth noise around 0, spread about 1, with features of ``scale`` pixels."""
    grid = rng.normal(size=(int(shape[0] / scale) + 2, int(shape[1] / scale) + 2))
    return cv2.resize(grid.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)


def _fibres(rng: Rng, shape: Shape) -> np.ndarray:
    """(H, W): noise drawn out along a direction that bends, spread 1."""
    field = np.pi * rng.random() + 0.7 * clouds(rng, shape, max(shape) / 3)
    y, x = np.indices(shape, np.float32)
    noise = clouds(rng, shape, 2.5)
    drawn = np.zeros(shape, np.float32)
    for step in range(-8, 9, 2):
        to_x, to_y = x + step * np.cos(field), y + step * np.sin(field)
        drawn += cv2.remap(noise, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(drawn / drawn.std())


def _blood(rng: Rng, shape: Shape, most: int) -> np.ndarray:
    """(H, W): red blood cells: round, dark, of a nucleus's size, told apart by colour alone."""
    canvas = np.zeros(shape, np.float32)
    radius, amount = rng.uniform((5, 0.8), (9, 1.4))
    for _ in range(rng.integers(0, most + 1)):
        cell = _outline(rng, shape, rng.uniform((0, 0), shape), radius, 1.1, 0.0, 0.2)
        middle = np.clip(cell.depth / radius, 0, 1)
        disc = np.clip(cell.depth + 0.5, 0, 1) * (1 - 0.3 * middle) * amount
        canvas[cell.box] = np.maximum(canvas[cell.box], disc)
    return canvas


def _debris(rng: Rng, shape: Shape, most: int, width: Range, strength: Range) -> np.ndarray:
    """(H, W): up to ``most`` - 1 spots, narrow ones for dust, wide ones for what is out of focus"""
    canvas = np.zeros(shape, np.float32)
    everywhere = (slice(0, shape[0]), slice(0, shape[1]))
    for _ in range(rng.integers(0, most)):
        at, widths = rng.uniform((0, 0), shape), rng.uniform(*width, 2)
        canvas += rng.uniform(*strength) * _spot(everywhere, at, widths)
    return canvas


def _spot(box: tuple[slice, slice], at: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """A Gaussian of height 1 at (y, x) in the image, cut to a box of the image."""
    down, right = (
        np.exp(-0.5 * ((np.arange(span.start, span.stop) - place) / width) ** 2)
        for span, place, width in zip(box, at, widths, strict=True)
    )
    return np.outer(down, right).astype(np.float32)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) or (H, W, C) after a Gaussian of ``sigma`` pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
