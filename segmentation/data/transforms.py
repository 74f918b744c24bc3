"""Random crops and augmentation recipes, every draw decided by a seed per sample.

Albumentations seeds itself once a process, so that workers and epochs repeat each other. Here the
caller's generator decides everything: the same (seed, epoch, index) gives the same pixels in any
worker, on any number of processes.
"""

import random
from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from segmentation.data.images import consecutive
from segmentation.data.preprocess import resize_image, resize_labels
from segmentation.errors import UserError

Recipe = Callable[[], list[A.BasicTransform]]


def none() -> list[A.BasicTransform]:
    """No augmentation."""
    return []


def flips() -> list[A.BasicTransform]:
    """The eight symmetries of the square."""
    return [A.D4(p=1)]


def light() -> list[A.BasicTransform]:
    """Symmetries, brightness, contrast and gamma: cheap, and enough for most data."""
    return [
        A.D4(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.5),
        A.RandomGamma(gamma_limit=(60, 160), p=0.5),
    ]


def nuclei() -> list[A.BasicTransform]:
    """``light`` with noise, blur, stain and sometimes no colour: for mixed microscopes and stains.

    Colour jitter leaves gray images gray: hue and saturation of a gray pixel do not exist.
    """
    return [
        *light(),
        A.HueSaturationValue(
            hue_shift_limit=12, sat_shift_limit=30, val_shift_limit=0, p=0.3
        ),
        A.ToGray(p=0.1),
        A.GaussNoise(std_range=(0.01, 0.06), p=0.3),
        A.GaussianBlur(sigma_limit=(0.3, 1.5), blur_limit=0, p=0.15),
    ]


def unetpp_keras() -> list[A.BasicTransform]:
    """System A's recipe, with its probabilities; .5 where it names none.

    Its ``Flip`` is gone from albumentations: one of the two flips or both, as that was.
    """
    return [
        A.CLAHE(p=0.5),
        A.Rotate(limit=360, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)])], p=0.5),
        A.GaussNoise(p=0.9),
        A.HorizontalFlip(p=0.6),
        A.OneOf([A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.2),
        A.VerticalFlip(p=0.7),
        A.HueSaturationValue(p=0.5),
    ]


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe for recipe in (none, flips, light, nuclei, unetpp_keras)
}
_COLOUR_ONLY = (A.HueSaturationValue, A.ToGray)


class Augmentation:
    """A named recipe over (H, W, C) uint8 images and (H, W) integer labels.

    Labels are never interpolated. Transforms of colour are left out for one-channel images.

    Args:
        recipe: One of ``RECIPES``.
        channels: Of the images, 1 or 3.

    Raises:
        UserError: There is no such recipe.
    """

    def __init__(self, recipe: str, channels: int = 3) -> None:
        if recipe not in RECIPES:
            raise UserError(
                f"augmentation: no recipe is called {recipe!r}; choose from {', '.join(RECIPES)}"
            )
        steps = RECIPES[recipe]()
        if channels == 1:
            steps = [step for step in steps if not isinstance(step, _COLOUR_ONLY)]
        self._pipeline = A.Compose(steps)
        self._empty = not steps

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment both with the same draws, all of them taken from ``rng``."""
        if self._empty:
            return image, labels
        # One stream for all steps. Compose.set_random_seed gives every step the *same* seed, so
        # that two steps with p = .5 would always be applied together.
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        done = self._pipeline(image=image, mask=_warpable(labels))
        return done["image"].reshape(*done["image"].shape[:2], image.shape[2]), done["mask"]


def random_crop(
    image: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """A random window of ``size`` / z, resized to ``size``, z log-uniform in ``zoom``.

    The window is cut before anything is warped, which costs a fraction of warping the whole image.
    What an image lacks in size is filled by reflection.

    Args:
        image: (H, W, C) uint8.
        labels: (H, W) integer.
        size: (height, width) of the result.
        rng: Source of every draw.
        zoom: Smallest and largest magnification.
    """
    factor = float(np.exp(rng.uniform(*np.log(zoom))))
    height, width = (max(1, round(s / factor)) for s in size)
    image, labels = pad_reflect(image, height, width), pad_reflect(labels, height, width)
    top = int(rng.integers(labels.shape[0] - height + 1))
    left = int(rng.integers(labels.shape[1] - width + 1))
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    if (height, width) == size:
        return image, labels
    return resize_image(image, size), resize_labels(labels, size)


def pad_reflect(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect an (H, W, …) array about its border until it is at least ``height`` × ``width``."""
    lacks = [max(0, height - array.shape[0]), max(0, width - array.shape[1])]
    if not any(lacks):
        return array
    pads = [(n // 2, n - n // 2) for n in lacks] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, pads, mode="reflect")


def _warpable(labels: np.ndarray) -> np.ndarray:
    """Labels in a dtype that OpenCV can warp (it has no 32-bit integers): uint8 or uint16."""
    if labels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(labels)
    if labels.max(initial=0) >= 2**16:
        labels = consecutive(labels)
    return labels.astype(np.uint16)
