"""JPEG by libjpeg-turbo, which tells what it had to mend: Pillow and imagecodecs do not let it."""

import re
from typing import Literal

import numpy as np

try:
    from simplejpeg import decode_jpeg as _decode
except ImportError:  # no wheel for this system: there damage is mended in silence
    _decode = None

_DAMAGE = re.compile("Corrupt JPEG data(?!: bad ICC)|Premature end")


def decode_jpeg(data: bytes, colours: Literal["GRAY", "RGB"]) -> np.ndarray | None:
    """The pixels of a JPEG, (H, W, 1 or 3) uint8; ``None`` of a kind that only others read.

    Damage is a ``ValueError``; such as leaves a valid stream cannot be told: JPEG has no checksum.
    """
    if _decode is None:
        return None
    try:
        return np.asarray(_decode(data, colours, strict=True))
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise
        return None  # an odd marker, or a kind of JPEG that libjpeg-turbo lacks
