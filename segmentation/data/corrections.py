"""Corrections of a data set, kept in a file beside it: the data set's own files stay as they are.

A corrections file is YAML. ``segmentation audit`` writes one with its findings as suggestions.

    drop: [ID, …]             leave these samples out
    prefer: {ID: OTHER, …}    sample ID gets the mask of sample OTHER
    merge: [[ID, ID, …], …]   all of these get the union of their masks

A mask may be taken from a sample that is dropped. All three are optional.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segmentation.config_files import Strict, load_yaml, read_text
from segmentation.data.sample import Record, Sample, SegmentationDataset, Source
from segmentation.errors import UserError, gist_of
from segmentation.objects import renumber

VERSION = 1  # raise when the same file gives other masks
KEYS = {"drop": "a list of ids", "prefer": "a table ID: OTHER"}
KEYS |= {"merge": "a list of lists of two or more different ids"}
REMEDY = "write drop: [ID, …], prefer: {ID: OTHER, …}, merge: [[ID, ID, …], …]"


@dataclass(frozen=True)
class Corrections:
    """What a corrections file says."""

    drop: frozenset[str] = frozenset()  # samples to leave out
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # whose, united, are its own


class Corrected(SegmentationDataset):
    """A data set as a corrections file says it should be.

    A file that is malformed or contradicts itself is a :class:`UserError`; in :meth:`index`, an
    unknown sample, or none that is left; in :meth:`read`, a mask that is missing or does not fit.
    """

    def __init__(self, source: Source, path: str | Path) -> None:
        self.source, self.path = source, Path(path).expanduser()
        self.corrections = read_corrections(self.path)
        self.name, self.version = source.name, source.version
        self.class_names: tuple[str, ...] = getattr(source, "class_names", ())
        self.source_of: Callable[[str], str] = getattr(source, "source_of", lambda name: "")
        self._records: dict[str, Record] = {}

    def index(self) -> Sequence[Record]:
        """Every sample that is not dropped; the stamp of a corrected one says whose masks it has"""
        drop, masks = self.corrections.drop, self.corrections.masks
        self._records = {record.id: record for record in self.source.index()}
        named = sorted(drop.union(masks, *masks.values()))
        if unknown := [name for name in named if name not in self._records]:
            raise UserError(
                f"{self.path}: {self.name} holds no sample {unknown[0]!r} (one is called "
                f"{next(iter(self._records), '')!r}); correct the id"
            )
        kept = [record for name, record in self._records.items() if name not in drop]
        if not kept:
            raise UserError(f"{self.path}: drop leaves no sample of {self.name}; drop fewer")
        for i, record in enumerate(kept):
            if record.id in masks:
                owners = [self._records[name] for name in masks[record.id]]
                stamp = repr((VERSION, record.stamp, [(one.id, one.stamp) for one in owners]))
                files = tuple(file for one in owners for file in one.masks)
                kept[i] = replace(record, masks=files, stamp=stamp)
        return kept

    def read(self, record: Record) -> Sample:
        """One sample, with the mask that it should have."""
        sample = self.source.read(self._records[record.id])
        labels, classes, kinds = None, None, dict[int, str]()
        for name in self.corrections.masks.get(record.id, ()):
            owner = sample if name == record.id else self.source.read(self._records[name])
            what = f"{self.path}: {record.id} should get the mask of {name}, which"
            if owner.labels is None:
                raise UserError(f"{what} has none; remove the entry")
            if owner.labels.shape != sample.image.shape[:2]:
                sizes = ["×".join(map(str, a.shape[:2])) for a in (owner.labels, sample.image)]
                sizes_differ = f"is {sizes[0]} (H×W) where the image is {sizes[1]}"
                raise UserError(f"{what} {sizes_differ}; remove the entry")
            # Some readers judge the kind by the mask (with or without a nerve).
            kinds.setdefault(int(np.count_nonzero(owner.labels > 0)), owner.kind)
            if labels is not None and owner.classes is not None:
                raise UserError(f"{what} holds classes, is one of several; list one mask alone")
            labels = owner.labels if labels is None else union(labels, owner.labels)
            classes = owner.classes
        if labels is None:
            return sample
        kind = kinds[max(kinds)]
        return replace(sample, labels=labels, classes=classes, kind=kind, facts=None)


def union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Instances whose foreground is the union of two (H, W) int32 label maps' foregrounds.

    Objects of ``first`` keep their pixels. Where more than half of an object of ``second`` lies in
    one of them, its other pixels join that; otherwise they are an object of their own. What neither
    of them annotates remains -1.

    >>> union(np.array([[7, 7, 0, 0]]), np.array([[0, 0, 3, 3]])).tolist()
    [[1, 1, 2, 2]]
    """
    unknown = (first < 0) & (second < 0)
    first, second = np.maximum(first, 0), np.maximum(second, 0)
    columns, rows = int(first.max(initial=0)) + 1, int(second.max(initial=0)) + 1
    pairs = second.astype(np.intp) * columns + first
    overlap = np.bincount(pairs.reshape(-1), minlength=rows * columns).reshape(rows, columns)
    areas = overlap.sum(1)
    overlap[:, 0] = 0
    partner = overlap.argmax(1)
    joins = 2 * overlap[np.arange(rows), partner] > areas
    wanted = np.where(joins, partner, columns + np.arange(rows))
    wanted[0] = 0
    return renumber(np.where(unknown, -1, np.where(first > 0, first, wanted[second])))


def read_corrections(path: Path) -> Corrections:
    """Read and check a corrections file; whether the samples exist is not known here."""
    try:
        # Ids are text: YAML would read the frame 1_17 as the number 117.
        content = load_yaml(unicodedata.normalize("NFC", read_text(path)), _Text) or {}  # as ids
    except yaml.YAMLError as error:
        reason = gist_of(error, 200)
        raise UserError(f"{path}: cannot be read ({reason}); {REMEDY}") from None
    given: dict[str, Any] = content if isinstance(content, dict) else {str(content): ""}
    for key, value in given.items():
        if key not in KEYS:
            raise UserError(f"{path}: {key[:60]!r} is none of {', '.join(KEYS)}; {REMEDY}")
        if value and not _fits(key, value):
            raise UserError(f"{path}: {key}: {str(value)[:60]} is not {KEYS[key]}; {REMEDY}")
    drop = frozenset(given.get("drop") or ())
    preferred = [(name, (other,)) for name, other in (given.get("prefer") or {}).items()]
    merged = [(name, tuple(ids)) for ids in given.get("merge") or () for name in ids]
    masks: dict[str, tuple[str, ...]] = {}
    for name, owners in [*preferred, *merged]:
        if name in masks:
            raise UserError(f"{path}: {name} is given two masks by prefer and merge; keep one")
        masks[name] = owners
    for name, owners in masks.items():
        if owners == (name,):
            raise UserError(f"{path}: prefer: {name}: {name} changes nothing; remove it")
        if name in drop and (len(owners) == 1 or drop.issuperset(owners)):
            raise UserError(
                f"{path}: {name} is dropped, so its other mask is given to nothing; remove one of "
                "the two entries"
            )
        if len(owners) == 1 and owners[0] in masks:
            raise UserError(
                f"{path}: prefer: {name}: {owners[0]} takes a mask that is itself replaced; name "
                "the sample whose own mask is right"
            )
    return Corrections(drop, masks)


def _fits(key: str, value: Any) -> bool:
    """Whether the value of a key has the form that :data:`KEYS` says."""
    if key == "prefer":
        return isinstance(value, dict) and _are_ids([*value, *value.values()])
    if key == "merge" and isinstance(value, list):
        return all(_are_ids(ids) and len(set(ids)) == len(ids) > 1 for ids in value)
    return _are_ids(value)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


class _Text(Strict, yaml.BaseLoader):
    """Leaves every value as text."""
