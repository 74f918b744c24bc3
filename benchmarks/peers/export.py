"""The images of a split as plain folders that any tool reads.

``images/PART/NAME.png`` are gray and as deep as in the source, ``masks/PART/NAME.png`` their label
maps of 16 bits, and ``PART.txt`` lists ``PART/NAME``.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from segmentation.data.cache import decoded
from segmentation.data.sample import PARTS, Split
from segmentation.data.splits import OfficialSplit, RandomSplit
from segmentation.datasets.bbbc039 import BBBC039
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.errors import UserError

# Reader, split and the start of the kinds of image that are taken.
DATASETS: dict[str, tuple[Callable[[Path], Any], Any, str]] = {
    "dsb2018": (DSB2018, RandomSplit(val=50, test=100, seed=0), "fluorescence"),
    "bbbc039": (BBBC039, OfficialSplit(), ""),
}


def export(dataset: str, root: Path, folder: Path, cache: Path | None = None) -> dict[str, Any]:
    """Write a data set's split into ``folder``, once; how many images each part has, and a hash.

    Raises:
        UserError: An image is neither gray nor of equal channels, or has over 65,535 objects.
    """
    about = folder / "split.json"
    if not about.exists():
        reader, splitter, kinds = DATASETS[dataset]
        store = decoded(reader(root), cache)
        every, index = splitter(store.entries), {e.id: i for i, e in enumerate(store.entries)}
        split = Split(*(tuple(n for n in getattr(every, part)
                              if store.entries[index[n]].kind.startswith(kinds))
                        for part in PARTS))  # fmt: skip
        shutil.rmtree(partial := folder.with_name(f".{folder.name}.part"), ignore_errors=True)
        for part in PARTS:
            for name in getattr(split, part):
                _write(partial, f"{part}/{name}.png", store[index[name]])
            lines = "".join(f"{part}/{name}\n" for name in getattr(split, part))
            (partial / f"{part}.txt").write_text(lines)
        (partial / about.name).write_text(split.to_json())
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    content = json.loads(about.read_text())
    return {"counts": content["counts"], "sha256": content["sha256"]}


def _write(folder: Path, name: str, sample: Any) -> None:
    image, labels = sample.image, sample.labels
    if not (image == image[..., :1]).all():
        raise UserError(f"{sample.id}: has colours; the peers are compared on gray images")
    if labels is None or labels.min() < 0 or labels.max() >= 2**16:
        raise UserError(f"{sample.id}: its truth is no label map of 16 bits")
    for kind, pixels in (("images", image[..., 0]), ("masks", labels.astype(np.uint16))):
        path = folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=6))
