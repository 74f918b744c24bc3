"""Which images a network was trained on: known by their pixels, whatever their files are called."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segmentation.data.sample import PARTS, Split
from segmentation.errors import UserError


@dataclass(frozen=True)
class Division:
    """The images of a data set, and how they are divided."""

    name: str  # of the data set
    split: Split
    digests: Mapping[str, str]  # id ► digest of the image's pixels; others are known by names

    def keys(self, part: str) -> dict[str, str]:
        """What each image of a part is known by ► its id."""
        ids = sorted(getattr(self.split, part))
        return {self.digests.get(i) or self._by_name(i): i for i in ids}

    def about(self) -> dict[str, Any]:
        """The data set's name, and for each part how many images it has and their digest."""
        keys = {part: sorted(self.keys(part)) for part in PARTS}
        digests = {part: hashlib.sha256("\n".join(some).encode()) for part, some in keys.items()}
        parts = {p: {"images": len(keys[p]), "sha256": digests[p].hexdigest()} for p in PARTS}
        return {"name": self.name, "parts": parts}

    def leak(self, part: str, seen: Mapping[str, str], did: str = "were trained on by") -> str:
        """How many images of a part were trained on, and one of them; empty if none was.

        ``seen`` is what the images of the training are known by ► their ids; ``did`` says what was
        done with them.
        """
        ids = getattr(self.split, part)
        found = {i: seen.get(self.digests.get(i, ""), seen.get(self._by_name(i))) for i in ids}
        leaked = {image: before for image, before in found.items() if before is not None}
        if not leaked:
            return ""
        image, before = next(iter(leaked.items()))
        called = "" if before == image else f", called {before} then"
        some = f"{len(leaked)} of {len(ids)} {part} images"
        return f"{some} {did} this checkpoint (such as {image}{called})"

    def trained(self, seen: Mapping[str, str]) -> list[str]:
        """The images that were trained on; those of ``train`` where ``seen`` tells nothing."""
        known = [i for i, key in self.digests.items() if key in seen or self._by_name(i) in seen]
        return known if seen else [*self.split.train]

    def _by_name(self, image: str) -> str:
        return f"{self.name}/{image}"


def trained_on(about: Mapping[str, Any], field: str = "trained_on") -> dict[str, str]:
    """What the images that a checkpoint was trained on are known by ► their ids.

    ``about`` is its record ``segmentation``. Older ones hold a list of ids for each data set, the
    first ones nothing. With the ``field`` ``chosen_on``, the images that chose its epoch.
    """
    found: dict[str, str] = {}
    try:
        for key, value in about.get(field, {}).items():
            found |= {key: value} if isinstance(value, str) else {f"{key}/{i}": i for i in value}
    except (AttributeError, TypeError):
        raise UserError(f"the checkpoint's {field} is broken; copy the file again") from None
    return found
