"""Two folders of masks, label maps or outlines as `evaluate` scores them: paired and checked."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segmentation.data.masks import MaskFacts, facts_of
from segmentation.errors import UserError
from segmentation.evaluation import maps
from segmentation.evaluation.classical import Classical
from segmentation.io.annotators import Annotators
from segmentation.io.images import read_image
from segmentation.io.listing import partner_of
from segmentation.io.pairs import find_images, find_maps
from segmentation.io.regions import Truth
from segmentation.io.tree import check_root
from segmentation.io.truth import Masks, TruthReader
from segmentation.objects import label_components, to_gray
from segmentation.progress import progress
from segmentation.targets import otsu


@dataclass(frozen=True)
class Side:
    """Truth or prediction: the files of each image, and how they are read."""

    option: str
    files: dict[str, tuple[Path, ...]]
    reader: TruthReader | Annotators

    def path(self, name: str) -> Path:
        """The file that an image's messages name."""
        return next(iter(self.files[name]), Path(name))

    @property
    def kind(self) -> str:
        """Where the objects come from."""
        says: dict[Masks, str] = {
            "binary": "8-connected components of binary masks",
            "classes": "8-connected components of each class",
        }
        if isinstance(self.reader, Annotators):
            first = replace(self, reader=self.reader.readers[0])
            return f"what {', '.join(self.reader.names)} agree on; {first.kind}"
        if self.reader.needs_size(next(iter(self.files.values()))):
            return "outlines or run lengths, one object each"
        return says.get(self.reader.mask_type, "instance ids of label maps")


@dataclass(frozen=True)
class Inputs:
    """What is scored: names, sorted, and for each side their files; the last two may lack names."""

    names: list[str]
    truth: Side
    prediction: Side
    probabilities: dict[str, Path]
    images: dict[str, Path]
    left_out: list[str]  # names that one side alone has
    doubts: list[str]  # what is unlikely about the masks

    def read(self, name: str) -> tuple[Truth, Truth]:
        """Truth and prediction of an image, of one size."""
        return read_both(self.truth, self.prediction, name, self.images.get(name))

    def baselines(self, name: str, truth: np.ndarray) -> dict[str, np.ndarray]:
        """Objects of an image by baselines that look at no truth, (H, W) int32 ids as its own."""
        image = read_image(self.images[name])
        _check_size(self.images[name], image, self.truth.path(name), truth.shape)
        by_otsu = label_components(otsu(to_gray(image)))
        return {"otsu": by_otsu, "classical": Classical().objects(image)}


def find_inputs(
    truth: Side,
    prediction: Side,
    probabilities: Path | None,
    images: Path | None,
    labels: maps.Kind,
    allow_missing: bool,
    allow: Collection[str] = (),
) -> Inputs:
    """Pair two sides, and read every file once to see that it is what it should be."""
    wanted, found = truth.files, prediction.files
    names = maps.pair(wanted, found, "--prediction", allow_missing)
    left_out = set(wanted) ^ set(found)
    probs: dict[str, Path] = {}
    if probabilities is not None:
        probs = find_maps(check_root(probabilities, "check --probabilities"), wanted)
        scored = {name: wanted[name] for name in names}
        common = maps.pair(scored, probs, "--probabilities", allow_missing)
        left_out |= set(scored) ^ set(probs)
        probs = {name: probs[name] for name in common}
    shown = {} if images is None else find_images(check_root(images, "check --images"))
    shown = {partner_of(name, wanted): path for name, path in shown.items()}
    if images is not None and not shown.keys() & set(names):
        raise UserError(
            f"--images: none of its {len(shown)} files has the name of one of --truth (such as "
            f"{next(iter(shown))} and {names[0]}); leave --images out, or rename them"
        )
    cautions = []
    if shown and (without := [name for name in names if name not in shown]):
        lacking = f"--images lacks {len(without)} of {len(names)} images ({without[0]}, say)"
        cautions.append(f"{lacking}: Otsu's threshold and the classical baseline are not scored")
    sides, facts = (truth, prediction), (dict[Path, MaskFacts](), dict[Path, MaskFacts]())
    alike = True
    for name in progress(names, "checking"):
        both = read_both(truth, prediction, name, shown.get(name))
        for side, known, read in zip(sides, facts, both, strict=True):
            if read.values is not None:
                known[side.path(name)] = facts_of(read.values, ids=True)
        one, other = (read.labels if read.values is None else read.values for read in both)
        alike = alike and np.array_equal(one, other)
        if name in probs:
            pixels = maps.read_probability(probs[name])
            _check_size(probs[name], pixels, truth.path(name), both[0].labels.shape)
    if probs:
        maps.check_no_labels(list(probs.values()))
    judged, doubts = list[Side](), list[str]()
    for side, known in zip(sides, facts, strict=True):
        ids, unlikely = True, list[str]()
        if known:  # others can mean one thing only
            ids, unlikely = maps.holds_instances(known, labels, side.option, allow)
        if not ids and isinstance(side.reader, TruthReader):
            side = replace(side, reader=replace(side.reader, mask_type="binary"))
        judged.append(side)
        doubts += unlikely
    if alike:
        cautions.append(
            "every prediction is equal to its truth: is it the truth itself, or a copy?"
        )
    true, predicted = judged
    return Inputs(names, true, predicted, probs, shown, sorted(left_out), doubts + cautions)


def agreed(each: Sequence[Inputs], places: Sequence[Path]) -> Inputs:
    """The inputs whose truth is what several annotators agree on, from those of each of them.

    They are called as the last part of their ``places``, if that tells them apart.
    """
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(place) for place in places]
    common = [name for name in each[0].names if all(name in one.names for one in each)]
    readers = [one.truth.reader for one in each]
    reader = Annotators(names, [one for one in readers if isinstance(one, TruthReader)])
    files = reader.join([{name: one.truth.files[name] for name in common} for one in each])
    left_out = {*each[0].names, *(name for one in each for name in one.left_out)} - {*common}
    doubts = list(dict.fromkeys(doubt for one in each for doubt in one.doubts))
    side = Side("--truth", files, reader)
    return replace(each[0], names=common, truth=side, left_out=sorted(left_out), doubts=doubts)


def read_both(one: Side, other: Side, name: str, image: Path | None) -> tuple[Truth, Truth]:
    """The same image of two sides; :class:`UserError` where their sizes differ.

    Outlines that do not tell its size take that of the other side, or of the image.
    """
    drawn = [side.reader.needs_size(side.files[name]) for side in (one, other)]
    shape: tuple[int, ...] | None = None
    if all(drawn) and image is not None:
        shape = read_image(image).shape[:2]
    read: dict[bool, Truth] = {}
    for second in sorted((False, True), key=lambda second: drawn[second]):
        side = other if second else one
        size = (shape[0], shape[1]) if shape and drawn[second] else None
        read[second] = side.reader.read(name, side.files[name], size)
        shape = read[second].labels.shape
    _check_size(other.path(name), read[True].labels, one.path(name), read[False].labels.shape)
    return read[False], read[True]


def find_side(option: str, place: Path, reader: TruthReader, names: Collection[str] = ()) -> Side:
    """The files of a folder, or of one file for all images, by the names that the other side has.

    ``option`` is what it was given as.
    """
    place = place.expanduser()
    if not place.is_file():
        check_root(place, f"check {option}")
    return Side(option, reader.find(place, dict.fromkeys(names, Path())), reader)


def _check_size(path: Path, pixels: np.ndarray, truth: Path, size: tuple[int, ...]) -> None:
    if pixels.shape[:2] != size:
        here, there = (f"{height}×{width}" for height, width in (pixels.shape[:2], size))
        what = f"is {here} (H×W) but its truth {truth} is {there}"
        raise UserError(f"{path}: {what}; export both at one size")
