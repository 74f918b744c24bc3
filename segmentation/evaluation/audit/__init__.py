"""What is wrong with a data set, and what it is like: a page, a JSON and a corrections file."""

import html
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from markupsafe import Markup

from segmentation.data.cache import SampleStore, StoredSample, decoded, map_ordered, usable_cores
from segmentation.data.classes import class_totals
from segmentation.data.datamodule import DataFiles
from segmentation.data.masks import doubts
from segmentation.data.sample import PARTS, Record, Source, Split, straddling
from segmentation.data.sources import torn, with_sources
from segmentation.errors import UserError
from segmentation.evaluation.audit.duplicates import Duplicates, Pair, find_duplicates, torn_pairs
from segmentation.evaluation.audit.page import audit_page
from segmentation.evaluation.audit.samples import FLAWS, SampleFacts, distributions, examine
from segmentation.evaluation.audit.sources import FILE as SOURCES
from segmentation.evaluation.audit.sources import likely_sources, sources_csv, sources_report
from segmentation.evaluation.pages import render
from segmentation.io.files import partial_of, read_json, unwritten

FILES = ("audit.html", "audit.json", "corrections.yaml", SOURCES)
# What is read: the data module, and those of its own options that the reader needs.
_TRUTH = ("classes", "ignore", "annotated")
_MODULES = {
    "dsb2018": ("DSB2018DataModule", ()),
    "dsb2018_stardist": ("DSB2018StarDistDataModule", ()),
    "bbbc039": ("BBBC039DataModule", ()),
    "dic_hela": ("DICHeLaDataModule", ("truth",)),
    "ultrasound_nerve": ("UltrasoundNerveDataModule", ()),
    "folder": ("FolderDataModule", ("images", "masks", "mask_type", *_TRUTH)),
}


def audit(
    dataset: Literal[
        "dsb2018", "dsb2018_stardist", "bbbc039", "dic_hela", "ultrasound_nerve", "folder"
    ],
    /,
    *,
    root: str,
    output: Path,
    split: Path | None = None,
    corrections: str | None = None,
    near: float = 0.4,
    agree: float = 0.7,
    small: int = 10,
    images: str | None = None,
    masks: list[str] | None = None,
    mask_type: Literal["binary", "labels", "objects", "classes"] | None = None,
    classes: list[str] | None = None,
    ignore: int | None = None,
    annotated: str | None = None,
    truth: Literal["gold", "silver", "best"] | None = None,
) -> int:
    """Duplicates, leaks, likely sources, faulty labels and distributions of a data set, as a page.

    The status is 1 when samples cannot be read; the others are audited all the same.

    Args:
        dataset: Which; folder: your own images.
        root: Where it is, as data.root in a config.
        output: Gets audit.html, audit.json, corrections.yaml and sources.csv; must not exist yet.
        split: ``split.json`` of a run, to look for leaks in; the default split otherwise.
        corrections: Audit what the data are after these corrections.
        near: Largest difference of near-duplicates: 0 equal, 1.4 unrelated.
        agree: Masks of duplicates with an IoU below this contradict each other.
        small: List objects of fewer pixels than this.
        images: Of a folder: name of the images' folder.
        masks: Of a folder: name of the masks' folder, or of one file; several are annotators.
        mask_type: Of a folder: what a mask holds.
        classes: Of a folder: names of the classes 1, 2, ….
        ignore: Of a folder: value of pixels that are not annotated.
        annotated: Of a folder: name of a folder of masks of what is annotated.
        truth: Of dic_hela: which.
    """
    allowed = {"near": 0 <= near < 1, "agree": 0 <= agree <= 1, "small": small >= 0}
    for name, value in (("near", near), ("agree", agree), ("small", small)):
        if not allowed[name]:
            raise UserError(f"--{name} {value}: must be at least 0, and near and agree at most 1")
    module, own = _MODULES[dataset]
    one = masks[0] if masks and len(masks) == 1 else masks
    given: dict[str, Any] = {"images": images, "masks": one, "mask_type": mask_type}
    given |= {"truth": truth, "classes": classes, "ignore": ignore, "annotated": annotated}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in own:
            raise UserError(f"--{name}: is not an option of {dataset}; leave it out")
    data = getattr(import_module(f"segmentation.datasets.{dataset}"), module)(
        root, files=DataFiles(corrections), **given
    )
    parts, name = data.splitter, f"the default {data.splitter}"
    if split is not None:
        parts, name = read_split(split), str(split)
    report = make_audit(data.source, output, parts, name, near, agree, small)
    print(html.unescape(render("audit.txt", report=report)), end="")
    print(f"page {output / FILES[0]}")
    for fault in report["faults"].values():
        print(f"left out  {fault}", file=sys.stderr)
    return 1 if report["faults"] else 0


def make_audit(
    source: Source,
    output: Path,
    split: Split | Callable[[Sequence[StoredSample]], Split],
    split_name: str,
    near: float = 0.4,
    agree: float = 0.7,
    small: int = 10,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Examine a data set and write ``FILES``; returns what ``audit.json`` holds.

    Samples that cannot be read are listed; everything else is said of the others. A reader may have
    a method ``overlaps(record)``: pixels that belong to several objects of a sample, which its
    label map cannot tell. ``split`` may draw the parts; where that is impossible, it is noted.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output}: exists already; choose another --output")
    store, records, faults = readable(source, cache)
    facts = list(map_ordered(lambda i: examine(store[i], small), range(len(store)), usable_cores()))
    found = find_duplicates(store, near)
    contradicting = [pair for pair in found.pairs if pair.iou is not None and pair.iou < agree]
    overlaps: Callable[[Record], int] | None = getattr(source, "overlaps", None)
    pixels = map_ordered(overlaps, records, usable_cores()) if overlaps else ()
    classes = class_totals(store, getattr(source, "class_names", ()))
    parts, reported = _split_report(store.entries, split, split_name, faults, found)
    likely = likely_sources(store, parts)
    known = {entry.id: entry.group for entry in with_sources(store.entries, source)}
    report = {
        "dataset": source.name,
        "settings": {"near": near, "agree": agree, "small": small},
        "samples_read": len(facts),
        "faults": faults,
        "doubts": [asdict(one) for one in doubts(store.entries)],
        "split": reported,
        "sources": sources_report(known, likely, parts, str(output / SOURCES)),
        "duplicates": {**asdict(found), "contradicting": len(contradicting)},
        "labels": {
            "empty": [one.id for one in facts if one.objects == 0],
            "no_truth": [one.id for one in facts if one.objects is None],
            "objects": sum(one.objects or 0 for one in facts),
            "cut": sum(one.cut or 0 for one in facts),
            **({"classes": classes} if classes else {}),
            **{what: sum(f.what == what for one in facts for f in one.flaws) for what in FLAWS},
            "overlaps": {r.id: n for r, n in zip(records, pixels, strict=False) if n}
            if overlaps
            else None,
        },
        "distributions": distributions(facts),
        # Without a column of what is not annotated where all is.
        "samples": [
            {k: v for k, v in asdict(one).items() if v or k != "unannotated"} for one in facts
        ],
    }
    texts = (
        audit_page(report, store, facts, found, likely),
        json.dumps(report, ensure_ascii=False) + "\n",
        suggested_corrections(source.name, facts, found.exact, contradicting, faults),
        sources_csv(likely),
    )
    final = output.resolve()
    partial = partial_of(final)
    try:
        with unwritten(final):
            partial.mkdir(parents=True)
            for name, text in zip(FILES, texts, strict=True):
                (partial / name).write_text(text, encoding="utf-8")
            partial.rename(final)  # in the place of an empty folder, too
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


class _WithoutFaults:
    """A data set without those of its samples that cannot be read."""

    def __init__(self, source: Source, faults: Mapping[str, str]) -> None:
        self.source, self.faults, self.read = source, faults, source.read
        self.name, self.version = source.name, source.version

    def index(self) -> Sequence[Record]:
        return [record for record in self.source.index() if record.id not in self.faults]


def readable(
    source: Source, cache: Path | None = None
) -> tuple[SampleStore, list[Record], dict[str, str]]:
    """The samples of a data set that can be read, their records, and what is wrong with the others.

    Where none can be read, or no single sample is at fault, it is a :class:`UserError`.
    """
    records = list(source.index())
    try:
        return decoded(source, cache), records, {}
    except UserError as error:
        first = error

    def fault(record: Record) -> str:
        try:
            source.read(record)
        except UserError as error:
            return str(error)
        return ""

    texts = map_ordered(fault, records, usable_cores())
    faults = {r.id: text for r, text in zip(records, texts, strict=True) if text}
    if not faults or len(faults) == len(records):
        raise first
    some = _WithoutFaults(source, faults)
    return decoded(some, cache), list(some.index()), faults


def read_split(path: Path) -> Split:
    """The ``split.json`` that a run keeps; another file is a :class:`UserError`."""
    try:
        content = read_json(path)
        parts = [tuple(content[part]) for part in PARTS]
        if not all(isinstance(name, str) for ids in parts for name in ids):
            raise TypeError
        return Split(*parts)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError):
        line = "not a split.json, which fit writes into a run's folder; take one"
        raise UserError(f"{path}: {line}") from None


def _split_report(
    entries: Sequence[StoredSample],
    split: Split | Callable[[Sequence[StoredSample]], Split],
    name: str,
    faults: Mapping[str, str],
    found: Duplicates,
) -> tuple[Split | None, dict[str, Any]]:
    """The split, where it is possible, and what straddles its parts."""
    try:
        split = split if isinstance(split, Split) else split(entries)
    except UserError as error:
        return None, {"name": name, "error": str(error)}
    digests = {entry.id: entry.digest for entry in entries}
    part = {i: p for p in PARTS for i in getattr(split, p)}
    if unknown := sorted(part.keys() - digests.keys() - faults.keys()):
        what = f"the data hold no sample {unknown[0]!r}"
        raise UserError(f"{name}: {what}; give the split of a run on these data")
    split = Split(*(tuple(i for i in getattr(split, p) if i in digests) for p in PARTS))
    groups = torn({entry.id: entry.group for entry in entries}, split)
    return split, {
        "name": name,
        "parts": {p: len(getattr(split, p)) for p in PARTS},
        "exact": straddling(digests, split),
        "near": [asdict(pair) for pair in torn_pairs(found.pairs, split) if not pair.exact],
        "groups": [{"group": group, "parts": some} for group, some in groups.items()],
    }


def suggested_corrections(
    name: str,
    facts: Sequence[SampleFacts],
    exact: Sequence[Sequence[str]],
    contradicting: Sequence[Pair],
    faults: Mapping[str, str],
) -> str:
    """A corrections file with every entry commented out; with all in force it is valid, too.

    Of equal images the one with the most foreground is kept, and samples that cannot be read are
    dropped. Of contradicting masks (worst first) the larger one is preferred: what was overlooked
    is more common than what was made up.
    """
    foreground = {one.id: one.foreground or 0 for one in facts}
    drop = dict(faults)
    for ids in exact:
        kept = max(ids, key=lambda one: foreground[one])
        drop |= {one: f"the same image as {kept}" for one in ids if one != kept}
    prefer: dict[str, tuple[str, str]] = {}
    for pair in contradicting:
        wrong, right = sorted((pair.second, pair.first), key=lambda one: foreground[one])
        owners = {owner for owner, _ in prefer.values()}
        if wrong not in drop.keys() | prefer.keys() | owners and right not in prefer:
            why = f"IoU {pair.iou:.2f}, difference {pair.difference:.3g}"
            prefer[wrong] = right, why

    def quoted(text: str) -> Markup:
        options: Any = {"default_style": '"', "allow_unicode": True, "width": 2**20}
        return Markup(yaml.safe_dump(text, **options).strip())

    def line(text: str) -> Markup:
        return Markup("".join(c if c.isprintable() else " " for c in text))

    return render(
        "corrections.yaml",
        name=line(name),
        drop=[(quoted(one), line(why)) for one, why in drop.items()],
        prefer=[(quoted(w), quoted(right), line(why)) for w, (right, why) in prefer.items()],
    )
