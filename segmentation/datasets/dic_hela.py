"""Cell Tracking Challenge, 2D training sets, such as DIC-C2DH-HeLa: living cells filmed.

Maška et al., "The Cell Tracking Challenge: 10 years of objective benchmarking", Nature Methods
2023. Gold truth was drawn by people: few frames, and of some only part of the cells. Silver truth
is what the best algorithms agreed on: all frames, nearly all cells.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import SequenceSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.listing import is_junk
from segmentation.io.tree import Tree, check_root
from segmentation.objects import renumber

Truth = Literal["gold", "silver", "best"]
REMEDY = "put DIC-C2DH-HeLa.zip (or its unpacked folder DIC-C2DH-HeLa/) there"

_FILE = re.compile(r"(?:^|/)(\d\d)(?:/t|_(GT|ST)/SEG/man_seg)(\d{3,4})\.tif$")
_FOLDERS = {"gold": ("GT",), "silver": ("ST",), "best": ("GT", "ST")}


class DICHeLa(SegmentationDataset):
    """Reads the archive as downloaded, or unpacked; any 2D training set of the challenge.

    Layout: frames ``0N/tTTT.tif``, gold truth ``0N_GT/SEG/man_segTTT.tif``, silver truth
    ``0N_ST/SEG/man_segTTT.tif`` (label maps); numbers have three or four digits. Frames without the
    truth that is asked for are left out. A sample is called ``01/t007``, its group is ``01``.

    >>> import tempfile
    >>> from segmentation.datasets.synthetic import write_dic_hela
    >>> data = DICHeLa(write_dic_hela(Path(tempfile.mkdtemp()), 8, size=(64, 80)), truth="gold")
    >>> [sample.id for sample in data]
    ['01/t001', '02/t001']

    Args:
        root: Folder that holds the archive or its unpacked folder, or that folder itself.
        truth: ``"gold"``: as drawn; where people drew a part of the cells, the others count as
            background. ``"silver"``. ``"best"``: gold's cells where there are any, silver's where
            gold has none: in other frames, and in its own the cells that it leaves out.
    """

    def __init__(self, root: str | Path, truth: Truth = "best") -> None:
        super().__init__(root)
        self.truth = truth
        self.name = f"dic_hela-{truth}"

    def index(self) -> Sequence[Record]:
        """All frames with truth."""
        self._tree = tree = _find(check_root(self.root, REMEDY))
        files: dict[str | None, dict[tuple[str, int], str]] = {None: {}, "GT": {}, "ST": {}}
        for path in tree.files:
            if found := _FILE.search(path):
                tree.add(files[found[2]], (found[1], int(found[3])), path)
        frames, says = files[None], "a mask with no image; add {0[0]}/t{0[1]:03}.tif or remove it"
        for folder in ("GT", "ST"):
            tree.check_partners(files[folder], frames, says)
        wanted = [files[folder] for folder in _FOLDERS[self.truth]]
        records = []
        for place, path in frames.items():
            if masks := tuple(truth[place] for truth in wanted if place in truth):
                name, stamp = f"{place[0]}/{Path(path).stem}", tree.stamp(path, *masks)
                records.append(Record(name, path, masks, stamp, place[0]))
        for sequence in sorted({place[0] for place in frames} - {r.group for r in records}):
            folders = " or ".join(f"{sequence}_{folder}/SEG" for folder in _FOLDERS[self.truth])
            raise UserError(
                f"{tree.path}: no frame of sequence {sequence} has truth in {folders}; add it, "
                f"remove {sequence}, or change the truth from {self.truth}"
            )
        if not records:
            raise UserError(f"{tree.path}: holds no frames 01/tTTT.tif; {REMEDY}")
        return sorted(records, key=lambda record: record.id)

    def read(self, record: Record) -> Sample:
        """One frame with its cells."""
        image = self._tree.image(record.image)
        maps = [self._tree.mask(path, image) for path in record.masks]
        labels = completed(*maps) if len(maps) == 2 else maps[0]
        return Sample(record.id, image, renumber(labels), record.group)


class DICHeLaDataModule(SegmentationDataModule):
    """A 2D training set of the Cell Tracking Challenge.

    Args:
        root: Folder with ``DIC-C2DH-HeLa.zip`` or ``DIC-C2DH-HeLa/``.
        truth: ``gold``, ``silver`` or ``best``; see :class:`DICHeLa`.
        split: ``null`` is ``SequenceSplit()``: neighbouring frames show the same cells.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self, root: str, truth: Truth = "best", split: Splitter | None = None, **kwargs: Any
    ) -> None:
        super().__init__(DICHeLa(root, truth), split or SequenceSplit(), **kwargs)


def completed(gold: np.ndarray, silver: np.ndarray) -> np.ndarray:
    """Gold's objects, and those of ``silver`` that gold leaves out: covers not half of.

    Both are (H, W) instance ids; gold's pixels stay as they are. The int32 ids have gaps.

    >>> completed(np.array([[5, 0, 0]]), np.array([[1, 1, 2]]))  # half of 1 is covered
    array([[5, 0, 7]], dtype=int32)
    """
    areas = np.bincount(silver.reshape(-1))
    covered = np.bincount(silver[gold > 0], minlength=len(areas))
    left_out = 2 * covered < areas
    left_out[0] = False
    kept = left_out[silver] & (gold == 0)
    return np.where(kept, silver.astype(np.int32) + int(gold.max()), gold.astype(np.int32))


def _find(root: Path) -> Tree:
    """The one dataset in ``root``: itself, a folder (in a folder of its name), or an archive."""
    folders = {
        path.parent
        for depth in ("", "*/", "*/*/")
        for path in root.glob(f"{depth}[0-9][0-9]")
        if path.is_dir() and not is_junk(path.relative_to(root).as_posix())
    }
    found = sorted(folders or (path for path in root.glob("*.zip") if not is_junk(path.name)))
    if not found:
        raise UserError(f"{root}: holds no Cell Tracking Challenge data; {REMEDY}")
    if len(found) > 1:
        both = f"{found[0].name} and {found[1].name}"
        raise UserError(f"{root}: holds {both}; put each into a root of its own")
    return Tree(found[0])
