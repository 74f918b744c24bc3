"""How images of one's own are divided: by groups that are named, or by sources that are likely."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segmentation.data.cache import StoredSample
from segmentation.data.sample import PARTS
from segmentation.data.sources import SourceSplit
from segmentation.errors import UserError
from segmentation.evaluation.audit.sources import LikelySource
from segmentation.experiments.plan.choices import Choice

KEY = "data.init_args.split"
ENOUGH = 10  # images of a source that counts, and of the parts that whole sources make
_PROPOSED = (
    " For one on what was never trained on, look at them with segmentation audit, and add the "
    "--data.split SourceSplit that it proposes."
)
_MOST = 100  # images to validate: more cost time in each epoch


def choose_split(images: int, groups: list[str], stack: bool) -> Choice:
    """How images of one's own are divided, by the names of their groups, one an image.

    Raises:
        UserError: There are fewer than three images.
    """
    if images < 3:
        raise UserError(
            f"{images} image(s) with masks: at least 3 are needed, to train, to choose the epoch "
            "and to test; cut a large one into several"
        )
    named = sorted({*groups} - {""})
    if len(named) >= 3:
        share = max(0.15, 1 / len(named))
        return _split_choice(
            "GroupSplit",
            f"split: the images are of {len(named)} groups (subfolders or stacks); whole groups "
            "validate and test, for images of one group resemble each other.",
            val=round(share, 3), test=round(share, 3), seed=0,
        )  # fmt: skip
    if len(named) == 2:
        return _split_choice(
            "SequenceSplit",
            f"split: of the two groups {named[1]} tests, and the last images of {named[0]} "
            "validate.",
            val=0.15,
        )
    if stack:
        return _split_choice(
            "BlockSplit",
            "split: all images are planes of one stack; blocks of them validate and test, with "
            "gaps, for neighbours resemble each other. A second stack would be a fairer test.",
            val=0.15, test=0.15,
        )  # fmt: skip
    return _split_choice(
        "RandomSplit",
        f"split: {images} images, no groups named; .15 of them validate (at most {_MOST}) and .15 "
        "test. If several come from one patient, plate or film, put them into one subfolder.",
        val=0.15 if images * 0.15 <= _MOST else _MOST, test=0.15, seed=0,
    )  # fmt: skip


def choose_by_sources(
    random: Choice, entries: Sequence[StoredSample], likely: Sequence[LikelySource], file: str
) -> Choice:
    """A split by likely sources where they are clear; else the random one, and what it means.

    They are clear if at least three have ``ENOUGH`` images, and whole ones leave half of the
    images to train on and make parts of at least ``ENOUGH``. ``file`` is to list them.
    """
    amounts = {name: random.value["init_args"][name] for name in ("val", "test", "seed")}
    name_of = {image: one.name for one in likely for image in one.images}
    large = sum(len(one.images) >= ENOUGH for one in likely)
    alike = f"images alike in size, colour, background and objects make {len(likely)} likely "
    alike += "sources" if len(likely) > 1 else "source"
    if len(likely) < 3:
        return _same(random, f"{alike}, too few to keep apart")
    if large < 3:
        return _same(random, f"{alike}, {large} of them of {ENOUGH} images or more", _PROPOSED)
    try:
        split = SourceSplit(**amounts)([replace(e, group=name_of[e.id]) for e in entries])
    except UserError:  # one has nearly all images
        return _same(random, f"{alike}, one of which has nearly all images", _PROPOSED)
    train, val, test = (len(getattr(split, part)) for part in PARTS)
    if 2 * train < len(entries) or min(val, test) < ENOUGH:
        parts = f"whole ones would make {train}, {val} and {test} images to train, validate, test"
        return _same(random, f"{alike}; {parts}", _PROPOSED)
    return _split_choice(
        "SourceSplit",
        f"split: no groups are named; {alike}, as {file} says: look at them with segmentation "
        "audit, and correct the list. Whole ones validate and test: a score for what was never "
        "trained on. RandomSplit would give one for more of the same.",
        **amounts, sources=file,
    )  # fmt: skip


def _same(random: Choice, found: str, proposed: str = "") -> Choice:
    more = f" The test is a score for more of the same: {found}.{proposed}"
    return random._replace(reason=random.reason + more)


def _split_choice(name: str, reason: str, **values: Any) -> Choice:
    room = "sources" if name == "SourceSplit" else "splits"
    chosen = {"class_path": f"segmentation.data.{room}.{name}", "init_args": values}
    return Choice(KEY, chosen, reason)
