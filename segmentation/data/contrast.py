"""Tables of intensities, and local contrast."""

import cv2
import numpy as np


def looked_up(tables: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(1 or C, values) tables of (H, W, C) pixels ► what each becomes."""
    if len(tables) == 1:
        return np.asarray(tables[0][image])
    return np.stack([table[image[..., i]] for i, table in enumerate(tables)], axis=2)


def clahe(image: np.ndarray, limit: float, apart: bool = False) -> np.ndarray:
    """CLAHE of the gray image, or of the lightness of a colour image (as albumentations does).

    Of channels that are no colours each is taken ``apart``.
    """
    if apart:
        each = np.split(image, image.shape[2], axis=2)
        return np.concatenate([clahe(one, limit) for one in each], axis=2)
    equalise = cv2.createCLAHE(limit, (8, 8)).apply
    if image.shape[2] == 1 or ((image == image[..., :1]).all()):
        gray = equalise(np.ascontiguousarray(image[..., 0]))
        return np.repeat(gray[..., None], image.shape[2], 2)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = equalise(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
