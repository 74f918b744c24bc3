"""Random crops and augmentation recipes, every draw decided by a seed per sample.

Albumentations seeds itself once a process, so that workers and epochs repeat each other. Here the
caller's generator decides everything: the same (seed, epoch, index) gives the same pixels in any
worker, on any number of processes.

Dtypes: images are uint8 with any number of channels, which is what ``Preprocess.prepare`` gives;
CLAHE, noise and colour jitter refuse uint16. Labels are of any integer dtype;
they are only ever moved, never interpolated, so that no id comes out that did not go in.
"""

import random
from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np

from segmentation.data.resize import resize_image, resize_labels
from segmentation.errors import UserError

Weight = np.ndarray | None

# Of each symmetry: whether rows and columns change places, and then how OpenCV flips, if it does.
_SYMMETRIES: dict[str, tuple[bool, int | None]] = {
    "e": (False, None),
    "r90": (True, 0),
    "r180": (False, -1),
    "r270": (True, 1),
    "v": (False, 0),
    "hvt": (True, -1),
    "h": (False, 1),
    "t": (True, None),
}
_NAMES = tuple(_SYMMETRIES)  # in albumentations' order: a draw is a place in it
_TRANSPOSED = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32  # bytes of a pixel that OpenCV can transpose


class D4(A.D4):  # type: ignore[misc]
    """Albumentations' symmetries of the square, drawn alike and equal bit for bit, only faster.

    It turns arrays by NumPy, which moves one value after another: a quarter turn takes OpenCV an
    18th of that time in colour, and an 8th in gray.
    """

    def get_params(self) -> dict[str, str]:
        """The name of one of them, drawn as ``Generator.choice`` does, which costs 10 µs."""
        return {"group_element": _NAMES[self.random_generator.integers(len(_NAMES))]}

    def apply(self, img: np.ndarray, group_element: str, **_: Any) -> np.ndarray:
        """Turn an (H, W) or (H, W, C) array."""
        transposes, flip = _SYMMETRIES[group_element]
        moved = img
        if transposes:
            fits = img[0, 0].nbytes in _TRANSPOSED
            moved = cv2.transpose(img) if fits else np.ascontiguousarray(img.swapaxes(0, 1))
        if flip is not None:
            moved = cv2.flip(moved, flip)
        return moved.reshape(*moved.shape[:2], *img.shape[2:])  # a channel alone loses its axis


class CoarseElastic(A.DualTransform):  # type: ignore[misc]
    """The smooth deformation of Ronneberger et al. 2015 (arXiv:1505.04597, section 3.1).

    Displacements are drawn on a coarse 3×3 grid and interpolated bicubically. Albumentations' own
    is 200 times slower if as smooth, and its approximate form folds an image over itself.

    Args:
        sigma: Standard deviation of a displacement in pixels of an image whose shorter side is 512
            (the paper: 10). In smaller images it shrinks with that side, so that nothing folds.
        p: Probability of a deformation.
    """

    def __init__(self, sigma: float = 10.0, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sigma = sigma

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Where each pixel comes from: x and y, (H, W) float32."""
        height, width = params["shape"][:2]
        sigma = self.sigma * min(1, height / 512, width / 512)
        grids = self.random_generator.normal(0, sigma, (2, 3, 3)).astype(np.float32)
        dx, dy = (cv2.resize(g, (width, height), interpolation=cv2.INTER_CUBIC) for g in grids)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        return {"map_x": dx + columns, "map_y": dy + rows}

    def apply(self, img: np.ndarray, method: int = cv2.INTER_LINEAR, **maps: Any) -> np.ndarray:
        """Deform an image, linearly interpolated."""
        whole = img.reshape(*img.shape[:2], -1)
        border, where = cv2.BORDER_REFLECT_101, (maps["map_x"], maps["map_y"])
        parts = [  # OpenCV takes four channels at once
            cv2.remap(whole[..., i : i + 4], *where, method, borderMode=border)
            for i in range(0, whole.shape[2], 4)
        ]
        moved = parts[0] if len(parts) == 1 else np.dstack(parts)
        return moved.reshape(img.shape)

    def apply_to_mask(self, mask: np.ndarray, *_: Any, **maps: Any) -> np.ndarray:
        """Deform labels or weights, which are only moved."""
        return self.apply(mask, cv2.INTER_NEAREST, **maps)


class StainJitter(A.HEStain):  # type: ignore[misc]
    """Another hematoxylin and eosin stain, drawn from those of the literature; gray stays gray."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Change the stain of a coloured (H, W, 3) image."""
        gray = (img == img[..., :1]).all()
        return img if gray else np.asarray(super().apply(img, **params))


def _flips(p: float) -> list[A.BasicTransform]:
    return [A.HorizontalFlip(p=p), A.VerticalFlip(p=p)]


def _affine(
    rotate: float,
    shift: float,
    scale: tuple[float, float],
    shear: float = 0.0,
    keep_ratio: bool = True,
    p: float = 1.0,
) -> A.Affine:
    """One warp: ±``rotate`` degrees, ±``shift`` of the side, ``scale``, ±``shear`` degrees in x."""
    return A.Affine(
        rotate=(-rotate, rotate),
        translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
        scale=scale,
        shear={"x": (-shear, shear), "y": (0, 0)},
        keep_ratio=keep_ratio,
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


RECIPES: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "none": lambda: [],
    # The eight symmetries of the square; of an oblong its four.
    "flips": lambda: [D4(p=1)],
    # Symmetries, brightness, contrast and gamma: cheap, and enough for most data.
    "light": lambda: [
        D4(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.5),
        A.RandomGamma(gamma_limit=(60, 160), p=0.5),
    ],
    # For mixed microscopes and stains. Brightness and gamma move the apparent border of a nucleus,
    # so they stay small. Gray images stay gray: they have neither hue nor saturation.
    "nuclei": lambda: [
        D4(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.15, p=0.3),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
        A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.3),
        A.ToGray(p=0.05),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.2),
        A.GaussianBlur(sigma_limit=(0.3, 1.0), blur_limit=0, p=0.1),
    ],
    # For stained tissue and bright fields of several laboratories: stain, light and focus differ.
    "stains": lambda: [
        D4(p=1),
        StainJitter(method="random_preset", p=0.3),
        A.HueSaturationValue(hue_shift_limit=12, sat_shift_limit=30, val_shift_limit=0, p=0.3),
        A.Illumination(p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.3),
        A.RandomGamma(gamma_limit=(75, 135), p=0.3),
        A.ToGray(p=0.1),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.2),
        A.GaussianBlur(sigma_limit=(0.3, 1.5), blur_limit=0, p=0.15),
    ],
    # For microscopes and stains that were never seen: all that can differ between laboratories.
    "generalist": lambda: [
        D4(p=1),
        StainJitter(method="random_preset", p=0.3),
        A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=40, val_shift_limit=0, p=0.3),
        A.ChannelShuffle(p=0.1),
        A.ToGray(p=0.2),
        A.InvertImg(p=0.1),
        A.Illumination(p=0.3),
        A.CLAHE(clip_limit=(1, 4), p=0.1),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.4),
        A.RandomGamma(gamma_limit=(40, 250), p=0.5),
        A.GaussianBlur(sigma_limit=(0.3, 2.0), blur_limit=0, p=0.2),
        A.GaussNoise(std_range=(0.01, 0.08), p=0.3),
        A.ImageCompression(quality_range=(30, 95), p=0.2),
    ],
    # What the U-Net paper names: symmetries, smooth deformations, gray value variations.
    "elastic": lambda: [
        D4(p=1),
        CoarseElastic(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
    ],
    # For DIC and phase contrast: symmetries (also of the light's side), little brightness.
    "cells": lambda: [
        D4(p=1),
        CoarseElastic(p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.3),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
    ],
    # For a hand-held probe: it tilts and presses, and gain and its curve differ between operators.
    # Either side of the body is a mirror image of the other; depth stays at the bottom.
    "ultrasound": lambda: [
        A.HorizontalFlip(p=0.5),
        _affine(rotate=10, shift=0.05, scale=(0.9, 1.1), p=0.8),
        CoarseElastic(sigma=6, p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.2, p=0.5),
        A.RandomGamma(gamma_limit=(70, 140), p=0.5),
    ],
    # System A's, with its probabilities; .5 where it names none. Its ``Flip`` was one of the two
    # flips or both. Noise has the variance that was the default then, 10 to 50 gray levels²;
    # today's σ would be 16 times that.
    "unetpp_keras": lambda: [
        A.CLAHE(p=0.5),
        A.Rotate(limit=360, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        A.OneOf([*_flips(1), A.Compose(_flips(1))], p=0.5),
        A.GaussNoise(std_range=(10**0.5 / 255, 50**0.5 / 255), p=0.9),
        A.HorizontalFlip(p=0.6),
        A.OneOf([A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.2),
        A.VerticalFlip(p=0.7),
        A.HueSaturationValue(p=0.5),
    ],
    # System B's. It names no ranges: these are those of Keras' own tutorial on little data, 40°, a
    # fifth of the side, shear .2 (then radians: 11°), zoom .2, of each axis by itself.
    "dic_keras": lambda: [
        _affine(rotate=40, shift=0.2, scale=(1 / 1.2, 1 / 0.8), shear=11, keep_ratio=False),
        A.HorizontalFlip(p=0.5),
    ],
    # System D's. It names none in detail: flips, any rotation, shifts and zoom of .1.
    "small_unet": lambda: [
        *_flips(0.5),
        _affine(rotate=180, shift=0.1, scale=(0.9, 1.1)),
    ],
}
_RGB_ONLY = (A.HueSaturationValue, A.HEStain, A.ToGray, A.ChannelShuffle)
_GRAY_OR_RGB = (A.CLAHE, A.ImageCompression)  # they take channels for colours


class Augmentation:
    """A named recipe over (H, W, C) uint8 images, (H, W) integer labels and float32 weights.

    Labels and weights are never interpolated, so that a weight stays with its pixel's label.
    Changes of colour are left out for channels that are not red, green and blue, and CLAHE and
    compression for those that are not gray either; all else is done to any number of channels
    alike.

    Args:
        recipe: One of ``RECIPES``; another is a :class:`UserError`.
        channels: How many the images have.
        rgb: Whether three of them are red, green and blue.
    """

    def __init__(self, recipe: str, channels: int = 3, rgb: bool = True) -> None:
        if recipe not in RECIPES:
            names = ", ".join(RECIPES)
            raise UserError(f"augmentation: no recipe is called {recipe!r}; choose from {names}")
        steps = RECIPES[recipe]()
        if channels != 3 or not rgb:
            without = _RGB_ONLY if channels == 1 else (*_RGB_ONLY, *_GRAY_OR_RGB)
            steps = [step for step in steps if not isinstance(step, without)]
        # Of an oblong, those symmetries of the square that do not exchange height and width.
        oblong = [s for x in steps for s in (_flips(0.5) if isinstance(x, A.D4) else [x])]
        # Not as a list of masks, which would come back in one common dtype.
        self._square, self._oblong = (
            A.Compose(some, additional_targets={"weight": "mask"}) for some in (steps, oblong)
        )

    def __repr__(self) -> str:
        """All steps with all their settings."""
        return repr(self._square)

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, weight: Weight, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, Weight]:
        """Augment all with the same draws, taken from ``rng``; shapes and dtypes stay.

        More than 65535 objects are a :class:`UserError`.
        """
        steps = (self._square if image.shape[0] == image.shape[1] else self._oblong).transforms
        if not steps:
            return image, labels, weight
        # One stream for all steps. Compose.set_random_seed gives every step the *same* seed, so
        # that two steps with p = .5 would always be applied together. The steps are called one by
        # one, because Compose checks everything after each, which takes as long as a flip.
        chance = random.Random(int(rng.integers(2**32)))
        chance.random()  # Compose's own draw, with which every training so far began
        small, ids = _warpable(labels)
        done = {"image": image, "mask": small}
        if weight is not None:
            done["weight"] = np.ascontiguousarray(weight)
        for step in steps:
            step.set_random_state(rng, chance)
            done = step(**done)
        moved = done["mask"] if ids is None else ids[done["mask"]]
        moved = moved.astype(labels.dtype, copy=False)
        new = done["image"]
        # A single pixel that ToGray took loses its other channels.
        new = new.reshape(image.shape) if new.size == image.size else np.resize(new, image.shape)
        return new, moved, done.get("weight")


def random_crop(
    image: np.ndarray,
    labels: np.ndarray,
    weight: Weight,
    size: tuple[int, int],
    rng: np.random.Generator,
    zoom: tuple[float, float] = (1.0, 1.0),
    pixel: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, Weight, bool]:
    """A random window of ``size`` / z, resized to ``size``, z log-uniform in ``zoom``.

    It holds ``pixel`` (row, column), if given, anywhere. What an image lacks in size is filled by
    reflection; the last of the results is whether this was so. The others are views of the input
    where nothing had to be resized.
    """
    if zoom == (1, 1):
        rng.random()  # drawn with and without zoom, so that windows lie at the same places
        factor = 1.0
    else:
        factor = float(np.exp(rng.uniform(*np.log(zoom))))
    height, width = max(1, round(size[0] / factor)), max(1, round(size[1] / factor))
    lacks = max(0, height - labels.shape[0]), max(0, width - labels.shape[1])
    if pixel is not None:
        pixel = pixel[0] + lacks[0] // 2, pixel[1] + lacks[1] // 2
    image, labels = pad_reflect(image, height, width), pad_reflect(labels, height, width)
    row, column = (None, None) if pixel is None else pixel
    top = _start(labels.shape[0], height, row, rng)
    left = _start(labels.shape[1], width, column, rng)
    window = np.s_[top : top + height, left : left + width]
    if weight is not None:
        weight = resize_labels(pad_reflect(weight, height, width)[window], size)
    cut = resize_image(image[window], size), resize_labels(labels[window], size)
    return *cut, weight, any(lacks)


def _start(whole: int, side: int, place: int | None, rng: np.random.Generator) -> int:
    """Where a random window of ``side`` begins, that holds ``place`` if it is given."""
    if place is None:
        return int(rng.integers(whole - side + 1))
    return min(max(place - int(rng.integers(side)), 0), whole - side)


def pad_reflect(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect an (H, W, …) array about its border until it is at least ``height`` × ``width``.

    It is reflected as often as needed; a single row or column is repeated.
    """
    lacks = max(0, height - array.shape[0]), max(0, width - array.shape[1])
    if not any(lacks):
        return array
    (top, bottom), (left, right) = ((lack // 2, lack - lack // 2) for lack in lacks)
    # As numpy's pad, in a fifth of the time.
    found = cv2.copyMakeBorder(array, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return found.reshape(*found.shape[:2], *array.shape[2:])  # a channel alone loses its axis


def _warpable(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels as uint8 or uint16, and, if they were renumbered, which id each number stands for.

    Not all versions of OpenCV warp 32-bit integers.
    """
    if labels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(labels), None
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest >= 0 and highest < 2**16:  # far cheaper than renumbering
        return labels.astype(np.uint16), None
    if lowest == -1 and highest < 2**16 - 1:  # not annotated
        return (labels.astype(np.int32) + 1).astype(np.uint16), np.arange(-1, highest + 1)
    ids = np.union1d(np.zeros(1, labels.dtype), labels)  # 0 stays 0: it fills what rotates in
    if len(ids) > 2**16:
        raise UserError(f"{len(ids)} objects in one training window; set a smaller data.crop")
    return np.searchsorted(ids, labels).astype(np.uint16), ids
