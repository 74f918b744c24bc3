"""Corrections of a dataset, kept in a file beside it: the dataset's own files stay as they are.

A corrections file is YAML. ``segmentation audit`` writes one with its findings as suggestions.

    drop: [ID, …]             leave these samples out
    prefer: {ID: OTHER, …}    sample ID gets the mask of sample OTHER
    merge: [[ID, ID, …], …]   all of these get the union of their masks

A mask may be taken from a sample that is dropped. All three are optional.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segmentation.data.sample import Record, Sample, Source
from segmentation.errors import UserError
from segmentation.objects import renumber

VERSION = 1  # raise when the same file gives other masks

KEYS = ("drop", "prefer", "merge")
REMEDY = "see segmentation/data/corrections.py for the format"


@dataclass(frozen=True)
class Corrections:
    """What a corrections file says.

    Attributes:
        drop: Samples to leave out.
        masks: For a sample the samples whose masks, united, are its mask.
    """

    drop: frozenset[str] = frozenset()
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Corrected:
    """A dataset as a corrections file says it should be.

    Args:
        source: The dataset.
        path: The file.

    Raises:
        UserError: The file is missing, malformed, or contradicts itself.
    """

    def __init__(self, source: Source, path: str | Path) -> None:
        self.source, self.path = source, Path(path).expanduser()
        self.corrections = read_corrections(self.path)
        self.name, self.version = source.name, source.version
        self._records: dict[str, Record] = {}

    def index(self) -> Sequence[Record]:
        """Every sample that is not dropped.

        The stamp of a corrected one tells whose masks it has.

        Raises:
            UserError: As the dataset's own; the file names an unknown sample, or drops all.
        """
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
        return [self._record(record) if record.id in masks else record for record in kept]

    def read(self, record: Record) -> Sample:
        """One sample, with the mask that it should have.

        Raises:
            UserError: As the dataset's own; a mask is missing or of another size than the image.
        """
        sample = self.source.read(self._records[record.id])
        if record.id not in self.corrections.masks:
            return sample
        owners = [
            sample if name == record.id else self.source.read(self._records[name])
            for name in self.corrections.masks[record.id]
        ]
        labels = None
        for owner in owners:
            if owner.labels is None:
                raise UserError(
                    f"{self.path}: {record.id} should get the mask of {owner.id}, which has none; "
                    "remove the entry"
                )
            if owner.labels.shape != sample.image.shape[:2]:
                sizes = [f"{s[0]}×{s[1]}" for s in (owner.labels.shape, sample.image.shape)]
                raise UserError(
                    f"{self.path}: {record.id} should get the mask of {owner.id}, which is "
                    f"{sizes[0]} (H×W) where the image is {sizes[1]}; remove the entry"
                )
            labels = owner.labels if labels is None else union(labels, owner.labels)
        # Some readers tell the kind by the mask (with or without a nerve).
        kind = max(owners, key=lambda owner: np.count_nonzero(owner.labels)).kind  # type: ignore[arg-type]
        return replace(sample, labels=labels, kind=kind)

    def _record(self, record: Record) -> Record:
        owners = [self._records[name] for name in self.corrections.masks[record.id]]
        stamp = repr((VERSION, record.stamp, [(owner.id, owner.stamp) for owner in owners]))
        return replace(record, masks=sum((owner.masks for owner in owners), ()), stamp=stamp)


def union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Instances whose foreground is the union of two label maps' foregrounds.

    Objects of ``first`` keep their pixels. Where more than half of an object of ``second`` lies in
    one of them, its other pixels join that; otherwise they are an object of their own.

    Args:
        first: (H, W) instance ids, int32.
        second: (H, W) instance ids, int32.

    Returns:
        (H, W) int32 instance ids, 1…n.
    """
    columns, rows = int(first.max(initial=0)) + 1, int(second.max(initial=0)) + 1
    pairs = second.astype(np.intp) * columns + first
    overlap = np.bincount(pairs.reshape(-1), minlength=rows * columns).reshape(rows, columns)
    areas = overlap.sum(1)
    overlap[:, 0] = 0
    partner = overlap.argmax(1)
    joins = 2 * overlap[np.arange(rows), partner] > areas
    wanted = np.where(joins, partner, columns + np.arange(rows))
    wanted[0] = 0
    return renumber(np.where(first > 0, first, wanted[second]))


def read_corrections(path: Path) -> Corrections:
    """Read and check a corrections file; whether the samples exist is not known here.

    Raises:
        UserError: The file cannot be read, is not of that form, or contradicts itself.
    """
    try:
        # Ids are text: YAML would read the frame 1_17 as the number 117.
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Strict)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        line = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f", line {line.line + 1}" if line else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path}{where}: not valid YAML ({what}); {REMEDY}") from None
    content = content or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds none of {', '.join(KEYS)}; {REMEDY}")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: {_short(key)} is none of {', '.join(KEYS)}; rename it")
    drop = content.get("drop") or []
    prefer = content.get("prefer") or {}
    merge = content.get("merge") or []
    if not _ids(drop):
        raise UserError(f"{path}: drop: {_short(drop)} is not a list of ids; {REMEDY}")
    if not isinstance(prefer, dict) or not _ids([*prefer, *prefer.values()]):
        raise UserError(f"{path}: prefer: {_short(prefer)} is not a table ID: OTHER; {REMEDY}")
    if not isinstance(merge, list):
        raise UserError(f"{path}: merge: {_short(merge)} is not a list of lists of ids; {REMEDY}")
    for ids in merge:
        if not _ids(ids) or len(set(ids)) < 2 or len(set(ids)) < len(ids):
            raise UserError(
                f"{path}: merge: {_short(ids)} is not a list of two or more different ids; {REMEDY}"
            )
    masks = [(name, (other,)) for name, other in prefer.items()]
    masks += [(name, tuple(ids)) for ids in merge for name in ids]
    _check_sense(path, frozenset(drop), masks)
    return Corrections(frozenset(drop), dict(masks))


def _check_sense(
    path: Path, drop: frozenset[str], masks: Sequence[tuple[str, tuple[str, ...]]]
) -> None:
    """Refuse entries that contradict one another."""
    given: dict[str, tuple[str, ...]] = {}
    for name, owners in masks:
        if name in given:
            raise UserError(f"{path}: {name} is given two masks by prefer and merge; keep one")
        given[name] = owners
    for name, owners in given.items():
        merged = len(owners) > 1
        if owners == (name,):
            raise UserError(f"{path}: prefer: {name}: {name} changes nothing; remove it")
        if name in drop and not (merged and any(owner not in drop for owner in owners)):
            what = "merge" if merged else "prefer"
            raise UserError(
                f"{path}: {name} is dropped, so {what} gives a mask to nothing; remove one of the "
                "two entries"
            )
        if not merged and owners[0] in given:
            raise UserError(
                f"{path}: prefer: {name}: {owners[0]} takes a mask that is itself replaced; name "
                "the sample whose own mask is right"
            )


def _ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Strict(yaml.BaseLoader):
    """Leaves every value as text and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "no key", key.start_mark)
            if key.value in seen:
                what = f"{key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
