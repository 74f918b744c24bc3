"""Train, compare and apply segmentation networks on small biomedical data sets.

In short::

    import segmentation
    model = segmentation.load("best.ckpt")  # or several: an ensemble
    labels = model.predict(image)  # (H, W) or (H, W, C) array ► (H, W) int32
    result = model.predict(image, probabilities=True, measurements=True)
    sample = segmentation.datasets.DSB2018("data/dsb2018")[0]
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentation import datasets as datasets
    from segmentation.checkpoints import load as load
    from segmentation.predictor import Prediction as Prediction
    from segmentation.predictor import Predictor as Predictor

# Albumentations asks the package index for a newer release each time it is imported, unless told
# not to: no import of this package may touch the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# LightningCLI calls what newer jsonargparse renamed; that is no news to a user of this package.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

__version__ = "0.1.0"
_FROM = {"load": "checkpoints", "Predictor": "predictor", "Prediction": "predictor"}


def __getattr__(name: str) -> Any:
    """Import what is used when it is used: importing torch takes seconds."""
    if name in _FROM:
        return getattr(importlib.import_module(f"segmentation.{_FROM[name]}"), name)
    if name == "datasets":
        return importlib.import_module("segmentation.datasets")
    raise AttributeError(f"module 'segmentation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_FROM, "datasets"]
