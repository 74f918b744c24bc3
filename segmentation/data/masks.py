"""What the values of masks mean: judged over a whole data set, before anything is learned from it.

Facts are gathered while a mask is in memory anyway, and kept beside the decoded sample. The limits
are far from real label maps: of DSB2018, BBBC039 and DIC-HeLa no map has a value in more than one
region (specks apart) nor more than .5 % of lone pixels along its edges; JPEG, smoothing and
interpolation leave 10 to 90 %.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np

from segmentation.errors import UserError
from segmentation.objects import label_components

if TYPE_CHECKING:
    from segmentation.data.cache import StoredSample

MaskDoubt = Literal["no_objects", "no_background", "inverted", "smooth", "reused_ids", "classes"]
Doubt = Literal["duplicates", "images", MaskDoubt]

_LONE = 0.02, 0.1  # share of the edges' pixels that is unlikely, and impossible
_REUSE = 1.1, 2.0  # regions of a value, on average, that are unlikely, and impossible
_FEW = 3  # pixels or regions of a single mask that prove nothing
_SPECK = 10  # a region of less than a tenth of the largest of its value does not count
_CLASSES = 16  # values that recur are classes where there are so few
_AROUND = 1 / 3  # of the masks; 0 of real ones, .4 to 1 of their inverses


class MaskFacts(NamedTuple):
    """What one mask shows."""

    ids: bool  # whether its values are to be ids of objects
    values: int  # different ones above 0
    low: tuple[int, ...]  # the smallest of them, at most four
    second: int  # the largest but one; 0 where there is none
    top: int  # the largest
    limit: int  # what the file's type can hold
    regions: int  # separate ones of one value, specks apart; of a binary mask 0: not counted
    edge: int  # pixels above 0 beside another value
    lone: int  # of these, such as are beside others, but like none of their four neighbours
    zeros: int  # pixels
    around: bool  # one region fills most of the image, touches all its borders and has holes
    image: bool  # it is equal to its image

    @property
    def shown(self) -> str:
        """Its values above 0 as text."""
        more = ", …" if self.values > len(self.low) else ""
        return ", ".join(map(str, self.low)) + more


@dataclass(frozen=True)
class Finding:
    """What is doubtful: ``refused`` where it cannot be right. ``doubt`` is the word to allow it."""

    doubt: Doubt
    refused: bool
    text: str


def judge(masks: Mapping[str, MaskFacts], binary: str = "mask_type: binary") -> list[Finding]:
    """What is doubtful about the masks of a data set, each said in one line with its remedy.

    Args:
        masks: Name ► facts.
        binary: What says that masks are binary.
    """
    found: list[Finding] = []
    drawn = {name: one for name, one in masks.items() if one.values}
    if same := [name for name, one in masks.items() if one.image]:
        what = f"{same[0]}: the mask is equal to its image (of {len(same)} such)"
        found.append(Finding("images", True, f"{what}; give the folder of the masks"))
    if drawn and not any(one.zeros for one in masks.values()):
        name, one = next(iter(drawn.items()))
        what = f"{name}: no pixel is 0 (but {one.shown}), as in all {len(masks)} masks"
        found.append(Finding("no_background", True, f"{what}; save the background as 0"))
    elif (count := sum(one.around for one in drawn.values())) > _AROUND * len(drawn):
        what = f"in {count} of {len(drawn)} masks one object fills most of the image, round holes"
        remedy = "0 is the background: if it is the objects here, invert the masks"
        found.append(Finding("inverted", False, f"{what}; {remedy}"))
    if ids := {name: one for name, one in drawn.items() if one.ids}:
        found += _findings_of_ids(ids, binary)
    return found


def doubts(entries: Iterable["StoredSample"]) -> list[Finding]:
    """What is doubtful about the masks of a decoded data set."""
    truth = [entry for entry in entries if entry.objects is not None]
    if truth and not any(entry.objects for entry in truth):
        return [no_objects(len(truth))]
    return judge({entry.id: entry.facts for entry in truth if entry.facts is not None})


def no_objects(masks: int) -> Finding:
    """What is doubtful about so many masks, if all of them are empty."""
    what = f"none of the {masks} mask(s) holds an object, all their pixels are 0"
    remedy = "give another folder, or save the masks anew if 0 and 1 were scaled to 0"
    return Finding("no_objects", True, f"{what}; {remedy}")


def cautions(found: Iterable[Finding], allowed: Collection[str], say: str) -> list[str]:
    """Raise :class:`UserError` for what is refused, unless it is allowed; return the warnings.

    ``say`` is how to allow it, with {} for its word. What is refused and allowed is a warning.
    """
    warnings = []
    for one in found:
        if one.doubt in allowed and not one.refused:
            continue
        line = f"{one.text}. If this is intended, {say.format(one.doubt)}"
        if one.refused and one.doubt not in allowed:
            raise UserError(line)
        warnings.append(one.text if one.refused else line)
    return warnings


def _findings_of_ids(masks: Mapping[str, MaskFacts], binary: str) -> list[Finding]:
    """What is doubtful about values as ids of objects: the first that explains the others."""
    every = list(masks.values())
    values, regions, edge, lone = (
        sum(getattr(one, name) for one in every) for name in ("values", "regions", "edge", "lone")
    )
    name = max(masks, key=lambda name: masks[name].lone / max(1, masks[name].edge))
    if lone > _LONE[0] * edge or masks[name].lone > max(_FEW, _LONE[1] * masks[name].edge):
        return [Finding("smooth", lone > _LONE[1] * edge, f"{name}: {_smooth(masks[name])}")]
    marked = [name for name, one in masks.items() if _is_marked(one)]
    between = (n for one in every for n in (one.second, one.top) if one.limit / 2 < n < one.limit)
    if marked and not any(between):
        name, one = marked[0], masks[marked[0]]
        what = f"{name}: {one.top} beside {one.second} and less: not annotated, rather than an id?"
        remedy = f"set {_key_of(binary, 'ignore')} to it, or save it as 0"
        return [Finding("classes", True, f"{what} Each value becomes an object; {remedy}")]
    wrapped = (n for n, one in masks.items() if one.values == one.limit < one.regions)
    if name := next(wrapped, ""):
        what = f"{name}: all {masks[name].limit} ids are in use, and some in several regions"
        remedy = "did they begin again? Save the maps with 16 bits"
        return [Finding("reused_ids", True, f"{what}; {remedy}")]
    name = max(masks, key=lambda name: masks[name].regions / masks[name].values)
    one, refused = masks[name], regions > _REUSE[1] * values
    where = f"{name}: {one.regions} separate regions under {one.values} value(s) ({one.shown})"
    if regions > _REUSE[0] * values or one.regions > max(_FEW, _REUSE[1] * one.values):
        doubt: Doubt = "reused_ids"
        remedy = "ids that are used again? Give each object a value of its own"
        if len({one.low for one in every}) == 1 == one.values:
            remedy = f"a binary mask, whose regions are the objects? Set {binary}"
        elif one.values == 1:
            remedy = "a binary mask among maps of ids? Give each object a value of its own"
        elif max(one.values for one in every) <= _CLASSES:
            doubt, other = "classes", _key_of(binary, "classes")
            remedy = f"classes? Set {other}, or save a mask of 0 and 255 of the one to be found"
        return [Finding(doubt, refused, f"{where}; {remedy}")]
    if len(every) > 3 and len({one.low for one in every}) == 1 < one.values < 4:
        what = f"every mask holds the values {one.shown}: classes? Each becomes one object"
        return [Finding("classes", False, f"{what}; if they are, set {_key_of(binary, 'classes')}")]
    return []


def why_not_binary(mask: MaskFacts, labels: str = "set mask_type: labels") -> str:
    """Why a mask of several values is not binary, and what helps; ``labels`` says they are ids."""
    what = f"a binary mask holds 0 and one other value, this one holds {mask.values} ({mask.shown})"
    if not mask.zeros:
        return f"{what}, and no pixel is 0; save the background as 0, the objects as 255"
    if mask.lone > _LONE[1] * mask.edge:
        return f"{what}: {_smooth(mask)}"
    if _is_marked(mask):
        return f"{what}: is {mask.top} what is not annotated? Set {_key_of(labels, 'ignore')} to it"
    if mask.regions > _REUSE[0] * mask.values:
        remedy = f"Set {_key_of(labels, 'classes')}, or save 0 and 255 of the one to be found"
        return f"{what}: classes? {remedy}"
    return f"{what}; {labels} if each is one object (not a class), or save 0 and 255"


def _key_of(option: str, wanted: Literal["classes", "ignore"]) -> str:
    """How classes and what is not annotated are set, of a config or of ``evaluate`` like option."""
    if wanted == "ignore":
        return "--ignore" if "--" in option else "data.ignore"
    return "--labels classes" if "--" in option else "mask_type: classes"


def _smooth(mask: MaskFacts) -> str:
    return (
        f"{mask.values} values that change from pixel to pixel: smoothed, resized, once a JPEG, or "
        "probabilities? Save the mask anew, without that"
    )


def _is_marked(mask: MaskFacts) -> bool:
    """Whether the type's largest value stands apart, as it does for what is not annotated."""
    return mask.top == mask.limit and 0 < 2 * mask.second < mask.limit


def facts_of(
    mask: np.ndarray,
    ids: bool = False,
    image: np.ndarray | None = None,
    components: np.ndarray | None = None,
) -> MaskFacts:
    """Look at a mask.

    Args:
        mask: (H, W) integers, as read.
        ids: Whether its values are to be ids of objects; otherwise it is 0 and one other value.
        image: (H, W, C), to see whether the mask is the image itself.
        components: ``label_components(mask > 0)``, where it is known.

    >>> facts = facts_of(np.array([[3, 0, 3, 0, 9]]))
    >>> facts.values, facts.regions, facts.zeros
    (2, 3, 2)
    """
    foreground, top = mask > 0, int(mask.max(initial=0))
    if components is None:
        components = label_components(foreground)
    area = int(np.count_nonzero(foreground))
    present, edge, lone = np.array([top] if top else [], np.int64), 0, 0
    pairs = owner = areas = np.zeros(0, np.int64)
    if np.count_nonzero(mask == top) < area:
        present, value, _ = _distinct(mask[foreground])
        keys = components[foreground].astype(np.int64) * len(present) + value
        pairs, _, areas = _distinct(keys)
        owner = pairs % len(present)
        edge, lone = _edge_pixels(mask, foreground)
    elif ids or 2 * area > mask.size:  # for others neither regions nor their areas matter
        areas = np.bincount(components.reshape(-1))[1:]
        pairs, owner = np.arange(1, len(areas) + 1), np.zeros(len(areas), np.int64)
    largest = np.zeros(len(present), np.int64)
    np.maximum.at(largest, owner, areas)
    around = False
    if len(areas) and 2 * areas.max() > mask.size:
        number = int(pairs[areas.argmax()])
        region = components == (number // len(present) if len(present) > 1 else number)
        around = _is_around(region & (mask == present[owner[areas.argmax()]]))
    same = image is not None and area > 0 and _is_same(mask, image)
    low = tuple(int(value) for value in present[:4])
    second = int(present[-2]) if len(present) > 1 else 0
    limit = int(np.iinfo(mask.dtype).max)
    regions = int(np.count_nonzero(areas * _SPECK >= largest[owner]))
    zeros = mask.size - area - int(np.count_nonzero(mask < 0))
    about = (len(present), low, second, top, limit, regions, edge, lone, zeros)
    return MaskFacts(ids, *about, around, same)


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different values of a list, sorted; the place of each one's among them; their counts."""
    if int(values.max()) > 4 * values.size + 2**16:
        return np.unique(values, return_inverse=True, return_counts=True)
    counts = np.bincount(values)  # as many times faster as there are to sort
    present = np.flatnonzero(counts)
    place = np.zeros(len(counts), np.int64)
    place[present] = np.arange(len(present))
    return present, place[values], counts[present]


def _edge_pixels(mask: np.ndarray, foreground: np.ndarray) -> tuple[int, int]:
    """See ``edge`` and ``lone`` of :class:`MaskFacts`."""
    alike, unlike, mixed = (np.zeros(mask.shape, bool) for _ in range(3))
    for one, other in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        equal = mask[one] == mask[other]
        both = foreground[one] & foreground[other] & ~equal
        for side in (one, other):
            alike[side] |= equal
            unlike[side] |= ~equal
            mixed[side] |= both
    return int(np.count_nonzero(unlike & foreground)), int(np.count_nonzero(mixed & ~alike))


def _is_around(region: np.ndarray) -> bool:
    """Whether an (H, W) bool region touches all four borders and encloses something."""
    if not all(side.any() for side in (region[0], region[-1], region[:, 0], region[:, -1])):
        return False
    count, rest = cv2.connectedComponents((~region).astype(np.uint8), connectivity=4)
    open_to = np.unique(np.concatenate([rest[0], rest[-1], rest[:, 0], rest[:, -1]]))
    return bool(region.all()) or count > len({0, *open_to.tolist()})


def _is_same(mask: np.ndarray, image: np.ndarray) -> bool:
    if mask.shape != image.shape[:2] or not (image[::16, ::16] == mask[::16, ::16, None]).all():
        return False  # nearly always, and at once
    return bool((image == mask[..., None]).all())
