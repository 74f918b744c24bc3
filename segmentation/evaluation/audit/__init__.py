"""What is wrong with a dataset, and what it is like: a page, a JSON and a corrections file."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segmentation.cores import usable_cores
from segmentation.data.cache import Entry, Store, decoded, map_ordered
from segmentation.data.sample import Record, Sample, Source
from segmentation.data.splits import PARTS, Split, straddling
from segmentation.errors import UserError
from segmentation.evaluation.audit.distributions import distributions
from segmentation.evaluation.audit.duplicates import Duplicates, find_duplicates, straddling_pairs
from segmentation.evaluation.audit.page import overview, page
from segmentation.evaluation.audit.samples import FLAWS, examine
from segmentation.evaluation.audit.template import template

NEAR, AGREE, SMALL = 0.4, 0.7, 10
FILES = ("audit.html", "audit.json", "corrections.yaml")

Overlaps = Callable[[Record], int]


def audit(
    source: Source,
    output: Path,
    split: Split | Callable[[Sequence[Entry]], Split],
    split_name: str,
    near: float = NEAR,
    agree: float = AGREE,
    small: int = SMALL,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Examine a dataset and write ``FILES``.

    Samples that cannot be read are listed; everything else is said of the others. A reader may have
    a method ``overlaps(record)``: pixels that belong to several objects of a sample, which its
    label map cannot tell.

    Args:
        source: The dataset.
        output: Folder to make. It appears when all is written.
        split: The parts, or what draws them. A drawn split that is impossible is noted.
        split_name: What to call it.
        near: Largest difference of near-duplicates, see ``audit.duplicates``.
        agree: Masks of duplicates with an IoU below this contradict each other.
        small: Objects of fewer pixels are odd.
        cache: Where the decoded samples are kept; the user's cache by default.

    Returns:
        What ``audit.json`` holds.

    Raises:
        UserError: The output exists or cannot be written, the dataset has no index or no sample
            that can be read, or the split names samples that it does not hold.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output}: exists already; choose another --output")
    store, records, faults = readable(source, cache)
    workers = usable_cores()
    facts = list(map_ordered(lambda i: examine(store[i], small), range(len(store)), workers))
    found = find_duplicates(store, near)
    contradicting = [pair for pair in found.pairs if pair.iou is not None and pair.iou < agree]
    report = {
        "dataset": source.name,
        "settings": {"near": near, "agree": agree, "small": small},
        "samples_read": len(facts),
        "faults": faults,
        "split": _split_report(store, split, split_name, faults, found),
        "duplicates": {**asdict(found), "contradicting": len(contradicting)},
        "labels": {
            "empty": [one.id for one in facts if one.objects == 0],
            "no_truth": [one.id for one in facts if one.objects is None],
            "objects": sum(one.objects or 0 for one in facts),
            "cut": sum(one.cut or 0 for one in facts),
            **{what: sum(f.what == what for one in facts for f in one.flaws) for what in FLAWS},
            "overlaps": _overlaps(source, records, workers),
        },
        "distributions": distributions(facts),
        "samples": [asdict(one) for one in facts],
    }
    suggestions = template(source.name, facts, found, contradicting, faults)
    html = page(report, store, facts, found)
    texts = (html, json.dumps(report, ensure_ascii=False) + "\n", suggestions)
    _write(output, dict(zip(FILES, texts, strict=True)))
    return report


def findings(report: dict[str, Any]) -> str:
    """The main findings as lines of text."""
    return "\n".join(f"{count:>9,}  {what}" for what, count, _ in overview(report))


def readable(
    source: Source, cache: Path | None = None
) -> tuple[Store, list[Record], dict[str, str]]:
    """The samples of a dataset that can be read, their records, and what is wrong with the others.

    Raises:
        UserError: None can be read, or what is at fault is not a single sample.
    """
    try:
        return decoded(source, cache), list(source.index()), {}
    except UserError as error:
        first = error
    faults: dict[str, str] = {}

    def fault(record: Record) -> str:
        try:
            source.read(record)
        except UserError as error:
            return str(error)
        return ""

    records = list(source.index())
    for record, text in zip(records, map_ordered(fault, records, usable_cores()), strict=True):
        if text:
            faults[record.id] = text
    if not faults or len(faults) == len(records):
        raise first
    some = _Readable(source, frozenset(faults))
    return decoded(some, cache), list(some.index()), faults


def read_split(path: Path) -> Split:
    """The ``split.json`` that a run keeps.

    Raises:
        UserError: It cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [content[part] for part in PARTS]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, TypeError, KeyError):
        parts = [None]
    if not all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in parts):
        raise UserError(f"{path}: not a split.json, which fit writes into a run's folder; take one")
    try:
        return Split(*map(tuple, parts))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Readable:
    """A dataset without some of its samples."""

    def __init__(self, source: Source, without: frozenset[str]) -> None:
        self.source, self.without = source, without
        self.name, self.version = source.name, source.version

    def index(self) -> Sequence[Record]:
        return [record for record in self.source.index() if record.id not in self.without]

    def read(self, record: Record) -> Sample:
        return self.source.read(record)


def _split_report(
    store: Store,
    split: Split | Callable[[Sequence[Entry]], Split],
    name: str,
    faults: dict[str, str],
    found: Duplicates,
) -> dict[str, Any]:
    """What straddles the parts."""
    if not isinstance(split, Split):
        try:
            split = split(store.entries)
        except UserError as error:
            return {"name": name, "error": str(error)}
    digests = {entry.id: entry.digest for entry in store.entries}
    part = {i: p for p in PARTS for i in getattr(split, p)}
    if unknown := sorted(part.keys() - digests.keys() - faults.keys()):
        raise UserError(
            f"{name}: the data hold no sample {unknown[0]!r}; give the split of a run on these data"
        )
    split = Split(*(tuple(i for i in getattr(split, p) if i in digests) for p in PARTS))
    parts: dict[str, set[str]] = {}
    for entry in store.entries:
        if entry.group and entry.id in part:
            parts.setdefault(entry.group, set()).add(part[entry.id])
    return {
        "name": name,
        "parts": {p: len(getattr(split, p)) for p in PARTS},
        "exact": straddling(digests, split),
        "near": [asdict(pair) for pair in straddling_pairs(found.pairs, split) if not pair.exact],
        "groups": [
            {"group": group, "parts": sorted(some, key=PARTS.index)}
            for group, some in sorted(parts.items())
            if len(some) > 1
        ],
    }


def _overlaps(source: Source, records: Sequence[Record], workers: int) -> dict[str, int] | None:
    """Pixels in several objects by sample that has any; ``None`` if the reader cannot tell."""
    count: Overlaps | None = getattr(source, "overlaps", None)
    if count is None:
        return None
    pixels = map_ordered(count, records, workers)
    return {record.id: n for record, n in zip(records, pixels, strict=True) if n}


def _write(output: Path, texts: dict[str, str]) -> None:
    """Make the folder whole or not at all."""
    output = output.resolve()
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.rename(output)  # in the place of an empty folder, too
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror}); choose a folder with write access "
            "and free space"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
