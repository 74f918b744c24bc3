"""Train, compare and apply segmentation networks on small biomedical data sets."""

import os

# Albumentations asks the package index for a newer release each time it is imported, unless told
# not to: no import of this package may touch the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# LightningCLI calls what newer jsonargparse renamed; that is no news to a user of this package.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

__version__ = "0.1.0"
