"""Random crops and augmentation recipes, every draw decided by a seed per sample.

Albumentations seeds itself once a process, so that workers and epochs repeat each other. Here the
caller's generator decides everything: the same (seed, epoch, index) gives the same pixels in any
worker, on any number of processes.

Dtypes: images are uint8 with 1 or 3 channels, which is what ``Preprocess.prepare`` gives and every
transform accepts (CLAHE, noise and colour jitter refuse uint16). Labels are of any integer dtype;
they are only ever moved, never interpolated, so that no id comes out that did not go in.
"""

import random
from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from segmentation.data.preprocess import resize_image, resize_labels
from segmentation.errors import UserError

Recipe = Callable[[], list[A.BasicTransform]]


def none() -> list[A.BasicTransform]:
    """No augmentation."""
    return []


def flips() -> list[A.BasicTransform]:
    """The eight symmetries of the square; of an oblong its four."""
    return [A.D4(p=1)]


def light() -> list[A.BasicTransform]:
    """Symmetries, brightness, contrast and gamma: cheap, and enough for most data."""
    return [
        A.D4(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.5),
        A.RandomGamma(gamma_limit=(60, 160), p=0.5),
    ]


def nuclei() -> list[A.BasicTransform]:
    """Symmetries with slight exposure, stain, noise and blur: for mixed microscopes and stains.

    Brightness and gamma move the apparent border of a nucleus, so they stay small. Colour jitter
    leaves gray images gray: hue and saturation of a gray pixel do not exist.
    """
    return [
        A.D4(p=1),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.15, p=0.3),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
        A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.3),
        A.ToGray(p=0.05),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.2),
        A.GaussianBlur(sigma_limit=(0.3, 1.0), blur_limit=0, p=0.1),
    ]


def unetpp_keras() -> list[A.BasicTransform]:
    """System A's recipe, with its probabilities; .5 where it names none.

    Its ``Flip`` is gone from albumentations: one of the two flips or both, as that was. Noise has
    the variance that was the default then, 10 to 50 gray levels²; today's σ would be 16 times that.
    """
    return [
        A.CLAHE(p=0.5),
        A.Rotate(limit=360, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        A.OneOf(
            [
                A.HorizontalFlip(p=1),
                A.VerticalFlip(p=1),
                A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)]),
            ],
            p=0.5,
        ),
        A.GaussNoise(std_range=(10**0.5 / 255, 50**0.5 / 255), p=0.9),
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
        self._square = A.Compose(steps)
        self._oblong = A.Compose([new for step in steps for new in _keeping_shape(step)])
        self._empty = not steps

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment both with the same draws, all of them taken from ``rng``.

        Args:
            image: (H, W, C) uint8; it is left as it is.
            labels: (H, W) integer instance ids, of at most 65535 objects.
            rng: Source of every draw.

        Returns:
            Image and labels, of the same shapes and dtypes.

        Raises:
            UserError: There are more objects than that.
        """
        if self._empty:
            return image, labels
        pipeline = self._square if image.shape[0] == image.shape[1] else self._oblong
        # One stream for all steps. Compose.set_random_seed gives every step the *same* seed, so
        # that two steps with p = .5 would always be applied together.
        pipeline.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        small, ids = _warpable(labels)
        done = pipeline(image=image, mask=small)
        moved = done["mask"] if ids is None else ids[done["mask"]]
        return done["image"].reshape(image.shape), moved


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
        zoom: Smallest and largest magnification, > 0.

    Returns:
        Image (*size, C) and labels ``size``, of the same dtypes; views of the input where nothing
        had to be resized.
    """
    factor = float(np.exp(rng.uniform(*np.log(zoom))))
    height, width = (max(1, round(side / factor)) for side in size)
    image, labels = pad_reflect(image, height, width), pad_reflect(labels, height, width)
    top = int(rng.integers(labels.shape[0] - height + 1))
    left = int(rng.integers(labels.shape[1] - width + 1))
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    return resize_image(image, size), resize_labels(labels, size)


def pad_reflect(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect an (H, W, …) array about its border until it is at least ``height`` × ``width``.

    It is reflected as often as needed; a single row or column is repeated.
    """
    for axis, wanted in enumerate((height, width)):
        lack = max(0, wanted - array.shape[axis])
        pads = [(0, 0)] * array.ndim
        pads[axis] = (lack // 2, lack - lack // 2)
        if lack:
            array = np.pad(array, pads, mode="reflect" if array.shape[axis] > 1 else "edge")
    return array


def _keeping_shape(step: A.BasicTransform) -> list[A.BasicTransform]:
    """The symmetries of the square, for an oblong: those that do not exchange height and width."""
    if isinstance(step, A.D4):
        return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    return [step]


def _warpable(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels in a dtype that OpenCV can warp (not all versions know 32-bit integers).

    Returns:
        Labels as uint8 or uint16, and, if they were renumbered, which id each number stands for.
    """
    if labels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(labels), None
    ids = np.union1d(np.zeros(1, labels.dtype), labels)  # 0 stays 0: it fills what rotates in
    if len(ids) > 2**16:
        raise UserError(f"{len(ids)} objects in one training window; set a smaller data.crop")
    return np.searchsorted(ids, labels).astype(np.uint16), ids
