"""An audit as one HTML page that needs nothing else: no network, no script, no other file."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from segmentation.data.cache import Store
from segmentation.evaluation.audit.duplicates import EDGES, Duplicates, Pair
from segmentation.evaluation.audit.pictures import closeup, side_by_side
from segmentation.evaluation.audit.samples import FLAWS, Facts
from segmentation.evaluation.html import ROWS, document, figure, histogram, histogram_of, table

PAIRS = 24  # shown as pictures
CLOSEUPS = 12  # of each flaw

FLAW_TITLES = {
    "parts": "Several components under one id",
    "holes": "Holes",
    "small": "Objects of a few pixels",
}


def page(report: dict[str, Any], store: Store, facts: Sequence[Facts], found: Duplicates) -> str:
    """The HTML.

    Args:
        report: What the JSON holds.
        store: The samples that can be read.
        facts: One of each of them.
        found: Their duplicates.
    """
    title = f"Audit of {report['dataset']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _overview(report),
        _faults(report),
        _split(report["split"]),
        _duplicates(report, store, found),
        _labels(report, store, facts),
        _distributions(report["distributions"], facts),
    ]
    return document(title, "".join(body))


def _overview(report: dict[str, Any]) -> str:
    rows = [
        (escape(what), f'<span class="{"bad" if count and bad else "ok"}">{count:,}</span>')
        for what, count, bad in overview(report)
    ]
    text = "<p>In red what may need a correction; the file <code>corrections.yaml</code> beside "
    return f"{_table(('what', 'how many'), rows)}{text}this page holds suggestions.</p>"


def overview(report: dict[str, Any]) -> list[tuple[str, int, bool]]:
    """The main findings: what, how many, and whether any is one too many."""
    duplicates, labels, split = report["duplicates"], report["labels"], report["split"]
    rows = [
        ("samples that can be read", report["samples_read"], False),
        ("samples that cannot be read", len(report["faults"]), True),
        ("groups of identical images", len(duplicates["exact"]), True),
        ("pairs of duplicates", len(duplicates["pairs"]), False),
        ("of which with contradicting masks", duplicates["contradicting"], True),
    ]
    if "error" not in split:
        rows += [
            ("groups of identical images across parts of the split", len(split["exact"]), True),
            ("pairs of near-duplicates across parts", len(split["near"]), True),
            ("groups (patients, sequences, …) across parts", len(split["groups"]), True),
        ]
    rows += [
        ("samples without truth", len(labels["no_truth"]), False),
        ("samples with an empty mask", len(labels["empty"]), False),
        ("objects", labels["objects"], False),
        ("objects of several components", labels["parts"], True),
        ("objects with holes", labels["holes"], True),
        (f"objects below {report['settings']['small']} pixels", labels["small"], True),
        ("objects cut by the border", labels["cut"], False),
    ]
    if labels["overlaps"] is not None:
        rows.append(("samples with overlapping objects", len(labels["overlaps"]), True))
    return rows


def _faults(report: dict[str, Any]) -> str:
    if not report["faults"]:
        return ""
    rows = [(escape(name), escape(why)) for name, why in report["faults"].items()]
    return f"<h2>Samples that cannot be read</h2>{_table(('sample', 'why'), rows)}"


def _split(split: dict[str, Any]) -> str:
    text = f"<h2>Split</h2><p>{escape(split['name'])}: "
    if "error" in split:
        return f"{text}not possible. {escape(split['error'])}</p>"
    text += ", ".join(f"{count:,} {part}" for part, count in split["parts"].items()) + ".</p>"
    exact = [(escape(" = ".join(ids)),) for ids in split["exact"]]
    groups = [(escape(one["group"]), escape(", ".join(one["parts"]))) for one in split["groups"]]
    if not (exact or groups or split["near"]):
        return f'{text}<p class="ok">Neither duplicates nor groups lie in more than one part.</p>'
    if exact:
        text += "<h3>Identical images in different parts</h3>"
        text += "<p><code>fit</code> refuses this split unless told otherwise.</p>"
        text += _table(("samples",), exact)
    if split["near"]:
        text += "<h3>Near-duplicates in different parts</h3>"
        rows = [
            (escape(one["first"]), escape(one["second"]), f"{one['difference']:.3g}")
            for one in split["near"]
        ]
        text += _table(("first", "second", "difference"), rows)
    if groups:
        text += f"<h3>Groups in different parts</h3>{_table(('group', 'parts'), groups)}"
    return text


def _duplicates(report: dict[str, Any], store: Store, found: Duplicates) -> str:
    near, agree = report["settings"]["near"], report["settings"]["agree"]
    places = {entry.id: i for i, entry in enumerate(store.entries)}
    text = (
        f"<h2>Duplicates</h2><p>The difference of two images of one size is 0 where they are equal "
        f"but for brightness and contrast, and about 1.4 where they are unrelated; up to {near:g} "
        f"they count as near-duplicates. Images of different sizes, or shifted, turned or cut out "
        f"of one another, are not found, nor are most neighbouring frames of a film: keep its "
        f"frames in one part by their group. {found.compared:,} pairs were compared by their "
        f"fingerprints, {found.candidates:,} by all their pixels. Masks of duplicates contradict "
        f"each other where their foregrounds’ intersection over union (IoU) is below {agree:g}.</p>"
    )
    if found.compared:
        title = "Pairs by difference of their fingerprints, ≤ that of the images"
        edges = EDGES.tolist()
        text += histogram(title, edges, found.counts, near)
    pairs = [_pair_row(pair, agree) for pair in found.pairs]
    if not pairs:
        return f'{text}<p class="ok">No duplicates.</p>'
    groups = [(f"{len(ids):,}", escape(", ".join(ids[:40]))) for ids in found.groups]
    text += f"<h3>Groups that hang together</h3>{_table(('samples', 'such as'), groups)}"
    text += "<h3>Pairs, the least agreeing masks first</h3>"
    text += (
        "<p>Left and middle: the two images with their masks outlined. Right: foreground of both "
        "purple, of the first alone yellow, of the second alone green.</p>"
    )
    for pair, row in list(zip(found.pairs, pairs, strict=True))[:PAIRS]:
        url = side_by_side(store[places[pair.first]], store[places[pair.second]])
        text += figure(url, " · ".join(row))
    return text + _table(("first", "second", "difference", "IoU of the masks"), pairs)


def _pair_row(pair: Pair, agree: float) -> tuple[str, ...]:
    iou = "no mask" if pair.iou is None else f"IoU {pair.iou:.3f}"
    if pair.iou is not None and pair.iou < agree:
        iou = f'<span class="bad">{iou}, contradicting</span>'
    apart = "identical" if pair.exact else f"difference {pair.difference:.3g}"
    return escape(pair.first), escape(pair.second), apart, iou


def _labels(report: dict[str, Any], store: Store, facts: Sequence[Facts]) -> str:
    labels, text = report["labels"], "<h2>Labels</h2>"
    places = {entry.id: i for i, entry in enumerate(store.entries)}
    if labels["overlaps"] is None:
        text += "<p>Overlaps: not available; this reader gives each pixel to one object.</p>"
    elif labels["overlaps"]:
        rows = [(escape(name), f"{pixels:,}") for name, pixels in labels["overlaps"].items()]
        text += f"<h3>Overlapping objects</h3>{_table(('sample', 'pixels'), rows)}"
    for title, key in (("Empty masks", "empty"), ("No truth", "no_truth")):
        if names := labels[key]:
            more = f" … and {len(names) - ROWS:,} more" if len(names) > ROWS else ""
            text += (
                f"<h3>{title} ({len(names):,})</h3><p>{escape(', '.join(names[:ROWS]))}{more}</p>"
            )
    for what in FLAWS:
        odd = [(flaw, one.id) for one in facts for flaw in one.flaws if flaw.what == what]
        if not odd:
            continue
        odd.sort(key=lambda pair: pair[0].value, reverse=what != "small")
        unit = {"parts": "components", "holes": "holes", "small": "pixels"}[what]
        samples = len({name for _, name in odd})
        text += f"<h3>{FLAW_TITLES[what]} ({len(odd):,} in {samples:,} samples)</h3>"
        for flaw, name in odd[:CLOSEUPS]:
            url = closeup(store[places[name]], flaw.object, flaw.x, flaw.y)
            about = f"{escape(name)}, x {flaw.x}, y {flaw.y}: {flaw.value:,} {unit}"
            text += figure(url, about, "close")
    return text


def _distributions(found: dict[str, Any], facts: Sequence[Facts]) -> str:
    text = "<h2>Distributions</h2>"
    for title, key in (("Size (H×W)", "sizes"), ("Channels and pixels, as read", "pixels")):
        rows = [(escape(what), f"{count:,}") for what, count in found[key].items()]
        text += _table((title, "samples"), rows)
    text += histogram_of("Samples by mean of the image", [one.mean for one in facts])
    counts = [one.objects for one in facts if one.objects is not None]
    if counts:
        text += histogram_of("Samples by number of objects", counts)
        shares = [one.foreground for one in facts if one.foreground is not None]
        text += histogram_of("Samples by share of foreground", shares)
    if areas := [area for one in facts for area in one.areas]:
        text += histogram_of("Objects by pixels (log scale)", areas, log=True)
    names = list(next(iter(found["quantiles"].values())))
    values = [
        (escape(what), *(f"{row[name]:g}" for name in names))
        for what, row in found["quantiles"].items()
    ]
    text += _table(("", *names), values)
    for what in ("kind", "group", "subset"):
        if table := found[f"by_{what}"]:
            columns = list(next(iter(table.values())))
            text += f"<h3>By {what}</h3>"
            text += _table(
                (what, *columns),
                [
                    (escape(name or "(none)"), *(_number(row[c]) for c in columns))
                    for name, row in table.items()
                ],
            )
    return text


def _table(head: Iterable[str], rows: Sequence[Iterable[str]]) -> str:
    return table(head, rows, "audit.json")


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:,.5g}"
