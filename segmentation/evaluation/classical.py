"""The baseline of a person without a network: a good picture, Otsu's threshold, watershed."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from segmentation import objects
from segmentation.data.stains import bright_on_dark

GRAY, INVERTED, STAIN, EACH = "gray", "inverted gray", "hematoxylin", "bright on dark"
PICTURES = {
    GRAY: "gray",
    INVERTED: "inverted gray",
    STAIN: "hematoxylin of stained images, others as bright on dark",
    EACH: "bright on dark, as each image's own colours and histogram say",
}
BASELINES = "otsu", "classical"  # what a network is compared with, as tables call it
SIGMAS = 1.0, 2.0  # pixels


@dataclass(frozen=True)
class Classical:
    """A picture of the image, a Gaussian filter, Otsu's threshold, and watershed."""

    picture: str = EACH  # of ``PICTURES``; the brighter side of the threshold is foreground
    sigma: float = 1.0  # of the filter, in pixels
    chosen: str = "by the images alone: no truth was looked at"

    def __str__(self) -> str:
        how = f"Gaussian filter (sigma {self.sigma:g}), Otsu's threshold, watershed"
        return f"{PICTURES[self.picture]}; {how}; chosen {self.chosen}"

    def mask(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8 or uint16 as read ► (H, W) bool foreground."""
        return _bright(pictured(image, self.picture), self.sigma)

    def objects(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) as read ► (H, W) int32 ids.

        Components are cut where maxima of the distance to the background lie a third of their
        median diameter apart; what is smaller than a tenth of its disc is left out.
        """
        mask = self.mask(image)
        areas = np.bincount(objects.label_components(mask).reshape(-1))[1:]
        diameter = objects.median_diameter(areas) or 0.0
        found = objects.label_objects(mask, max(1, round(diameter / 3)))
        return objects.clean_objects(found, round(np.pi / 40 * diameter**2), fill_holes=False)


def pictured(image: np.ndarray, picture: str) -> np.ndarray:
    """(H, W, C) uint8 or uint16 ► (H, W) of either type: one of ``PICTURES``.

    >>> pictured(np.uint8([[[9], [4]]]), INVERTED).tolist()
    [[0, 5]]
    """
    image = image if image.shape[2] in (1, 3) else objects.to_gray(image)[..., None]
    if picture in (STAIN, EACH):
        view = bright_on_dark(lambda: [image], stained=picture == STAIN)
        return np.asarray(view.apply(image)[..., 0])
    gray = objects.to_gray(image)
    return gray if picture == GRAY else np.asarray(gray.max() - gray)


def classical_of(samples: Iterable[tuple[np.ndarray, np.ndarray]], what: str) -> Classical:
    """The best picture and filter for some images, by the mean over images of IoU.

    Without any image it is the one that looks at no truth.

    Args:
        samples: Images (H, W, C) as read, and their (H, W) ids, -1 = not annotated.
        what: They are, such as "validation images".
    """
    pictures = EACH, GRAY, INVERTED, STAIN
    tried = [Classical(picture, sigma) for picture in pictures for sigma in SIGMAS]
    scores = []
    for image, labels in samples:
        known, truth = labels >= 0, labels > 0
        show = {picture: pictured(image, picture) for picture in PICTURES}
        found = (_bright(show[one.picture], one.sigma) & known for one in tried)
        scores.append([_iou(one, truth) for one in found])
    if not scores:
        return Classical()
    means = np.mean(scores, axis=0)
    best = tried[int(means.argmax())]
    about = f"of {len(tried)} by the {len(scores)} {what} (IoU per image {means.max():.3f})"
    return Classical(best.picture, best.sigma, about)


def _bright(gray: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(np.ascontiguousarray(gray), (0, 0), sigma)
    threshold, _ = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(smooth > threshold)


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0
