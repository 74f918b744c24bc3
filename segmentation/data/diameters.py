"""How large the objects of a network's training images were."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.objects import median_diameter

MOST = 200  # training images that are measured
_WIDTH = 0.25  # octaves of diameter: how far apart sizes count as alike


@dataclass(frozen=True)
class TrainingDiameters:
    """Median diameters of the objects of training images, in pixels, as the network saw them.

    Attributes:
        of_each: (n,) one for each of at most 200 images that hold an object.
    """

    of_each: np.ndarray

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "TrainingDiameters":
        """Measure training images, as prepared for the network."""
        labels = (sample.labels for sample in samples if sample.labels is not None)
        areas = (np.bincount(np.maximum(each, 0).reshape(-1))[1:] for each in labels)
        found = [d for some in areas if (d := median_diameter(some)) is not None]
        return cls(np.array(found, float))

    def plain(self) -> list[float]:
        """Plain values, for a checkpoint."""
        return [round(d, 3) for d in self.of_each.tolist()]

    @classmethod
    def stored_in(cls, about: Mapping[str, Any]) -> "TrainingDiameters | None":
        """Those of a checkpoint or an export; ``None`` where it does not tell.

        Raises:
            UserError: They are broken.
        """
        try:
            if (plain := about.get("training_diameters")) is None:
                if (older := about.get("description")) is None or older["version"] != 1:
                    return None
                # Until 0.1.0 these were columns of a table: the last but one is log2.
                plain = [2.0 ** row[-2] for row in older["images"] if row[-2] is not None]
            found = np.array(plain, float)
            if found.ndim != 1 or not (np.isfinite(found) & (found > 0)).all():
                raise ValueError(f"{found.shape} positive numbers")
            return cls(found)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UserError(
                f"the diameters of the training images are broken ({error}); copy the file again"
            ) from None

    @property
    def median(self) -> float | None:
        """In pixels; ``None`` if no image holds an object."""
        return self.quantile(0.5) if len(self.of_each) else None

    def quantile(self, share: float) -> float:
        """In pixels, of a logarithmic axis; of at least one image with an object."""
        return float(2 ** np.quantile(self._sizes, share))

    def likeness(self, diameter: float) -> float:
        """How usual it is that an image's objects have this median diameter: 0…1.

        The density of the training images' diameters on a logarithmic axis (a Gaussian kernel of a
        quarter of an octave), 1 where it is greatest.
        """
        greatest = self._density(self._sizes).max(initial=1e-6)
        return float(self._density(np.log2([diameter]))[0] / greatest)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.asarray(np.log2(self.of_each))

    def _density(self, sizes: np.ndarray) -> np.ndarray:
        apart = (sizes[:, None] - self._sizes) / _WIDTH
        return np.asarray(np.exp(-0.5 * apart**2).sum(axis=1))
