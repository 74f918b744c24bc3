"""Flow: in each pixel the direction in which its object's centre lies."""

from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import watershed
from torch import Tensor

from segmentation.errors import UserError
from segmentation.losses.flow import FLOW_SCALE
from segmentation.objects import label_components, local_maxima, renumber
from segmentation.targets.base import CERTAIN, Target, check_natural
from segmentation.targets.distance import wholly_annotated

_STEPS, _DOUBLINGS = 8, 5  # 8 · 2⁵ = 256 steps of at most a pixel
_SUPPORT = 11  # pixels that must flow to one place: Cellpose's too
_LARGEST = 512  # height + width of a box: larger objects are diffused at half the size


class Flow(Target):
    """Foreground, and a field of unit vectors to the centre of each object, as in Cellpose.

    Heat spreads from an object's centre within the object alone; flows are the directions of its
    gradient (Stringer et al., Nature Methods 2021). To decode, every pixel of the foreground
    follows the flows; those that arrive at one place are an object. An object whose pixels have
    other flows than an object of its shape would have is dropped.

    Args:
        flow_error: Objects of a greater :func:`flow_errors` are dropped; 0 keeps all.
        peak_distance: Pixels are one object that arrive within so many pixels of a peak.

    >>> Flow().encode(np.int32([[0, 1, 1, 1, 0]]))[2].tolist()
    [[0.0, 1.0, 0.0, -1.0, 0.0]]
    """

    classes = 3
    lengths = ("peak_distance",)
    vectors = slice(1, 3)
    tunable: ClassVar[dict[str, Any]] = {
        **Target.tunable,
        "flow_error": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
        "peak_distance": (1, 2, 3, 4, 6, 8),
    }

    def __init__(
        self,
        threshold: float = 0.5,
        min_size: int = 0,
        fill_holes: bool = False,
        flow_error: float = 0.4,
        peak_distance: int = 2,
    ) -> None:
        super().__init__(threshold, min_size, fill_holes)
        check_natural("flow_error", flow_error)
        if peak_distance < 1:
            raise UserError(f"target.peak_distance: {peak_distance} must be 1 pixel or more")
        self.flow_error, self.peak_distance = flow_error, peak_distance

    @property
    def background(self) -> tuple[float, ...]:
        return (-CERTAIN, 0.0, 0.0)  # nothing flows there

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("foreground", "flow_down", "flow_right")

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(3, H, W) float32: foreground, and the flow's parts down and to the right."""
        foreground = torch.from_numpy((labels > 0).astype(np.float32))[None]
        return torch.cat([foreground, torch.from_numpy(object_flows(labels))])

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """What is annotated, but objects beside what is not: nobody knows their centre."""
        return wholly_annotated(labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Foreground in 0…1, and flows of about unit length; float32."""
        logits = logits.float()
        return torch.cat([logits[:, :1].sigmoid(), logits[:, 1:] / FLOW_SCALE], dim=1)

    def turned_back(self, probs: Tensor, turns: int, mirrored: bool) -> Tensor:
        """Flows turn with the image."""
        foreground, down, right = probs.unbind(1)
        for _ in range(turns % 4):
            down, right = right, -down
        return torch.stack([foreground, down, -right if mirrored else right], dim=1)

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(3, H, W) ► (H, W) int32 ids of what flows together, without what flows otherwise."""
        mask, flows = probs[0] > self.threshold, np.ascontiguousarray(probs[1:])
        labels = gathered(destinations(flows, mask), mask, self.peak_distance)
        if self.flow_error:
            wrong = flow_errors(labels, flows) > self.flow_error
            labels *= ~wrong[labels]
        return labels


def object_flows(labels: np.ndarray) -> np.ndarray:
    """Unit vectors up the heat that spreads from each object's centre: (2, H, W) float32.

    In 2 · (height + width + 4) steps, of the object's box, the centre (the pixel nearest to the
    mean of all) gains 1 and each pixel takes the mean of its 3 × 3, which is 0 beyond the object:
    ``masks_to_flows`` of Cellpose 3. Objects whose height and width are more than 512 pixels
    together are diffused at half the size.

    >>> object_flows(np.int32([[1, 1, 1]])).tolist()
    [[[0.0, 0.0, 0.0]], [[1.0, 0.0, -1.0]]]
    """
    labels = renumber(labels)
    flows = np.zeros((2, *labels.shape), np.float32)
    found = ndimage.find_objects(labels)
    if not found:
        return flows
    sides = np.array([(y.start, x.start, y.stop - y.start, x.stop - x.start) for y, x in found])
    tops, lefts, heights, widths = sides.T
    steps = 2 * (heights + widths + 4)
    if (large := heights + widths > _LARGEST).any():
        own = np.append(False, large)[labels]
        half = object_flows(np.where(own, labels, 0)[::2, ::2]).repeat(2, 1).repeat(2, 2)
        half = half[:, : labels.shape[0], : labels.shape[1]] * own
        return np.asarray(half + object_flows(np.where(own, 0, labels)))
    # Boxes stand in an image of their own, where no object touches another.
    order = np.argsort(-steps, kind="stable")
    downs, acrosses, side = _placed(heights, widths, order)
    bottoms = np.maximum.accumulate((downs + heights)[order]) + 1
    pixels = np.flatnonzero(labels)
    ids = labels.reshape(-1)[pixels] - 1
    rows, columns = np.divmod(pixels, labels.shape[1])
    rows, columns = rows - tops[ids], columns - lefts[ids]
    place = (rows + downs[ids]) * side + columns + acrosses[ids]
    centres = _centres(ids, rows, columns, place)
    heat, inside = (np.zeros((bottoms[-1], side), np.float32) for _ in range(2))
    inside.reshape(-1)[place] = 1
    directions, third, done = np.zeros((2, len(ids)), np.float32), np.full(3, 1 / 3, np.float32), 0
    flat, longer = heat.reshape(-1), np.argsort(steps[ids], kind="stable")
    ends = np.bincount(steps[ids]).cumsum()
    for last in np.unique(steps).tolist():
        going = steps >= last
        part = heat[: bottoms[going.sum() - 1]]
        mask, hottest = inside[: len(part)], centres[going]
        for _ in range(done, last):
            flat[hottest] += 1
            cv2.sepFilter2D(part, -1, third, third, dst=part, borderType=cv2.BORDER_CONSTANT)
            np.multiply(part, mask, out=part)
        done, own = last, longer[ends[last - 1] : ends[last]]
        here = place[own]
        both = np.stack([flat[here + side] - flat[here - side], flat[here + 1] - flat[here - 1]])
        # Where heat has its summit, differences are but rounding errors.
        directions[:, own] = both / np.maximum(np.hypot(*both), 1e-4 * flat[here] + 1e-38)
    flows.reshape(2, -1)[:, pixels] = directions
    return flows


def _placed(
    heights: np.ndarray, widths: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Top and left of boxes that stand in rows, a pixel apart, and the width of all."""
    side = max(int(widths.max()), int(np.sqrt((heights * widths).sum()))) + 2
    tops, lefts = np.zeros_like(heights), np.zeros_like(heights)
    top, left, bottom = 1, 1, 1
    for i in order.tolist():
        if left + widths[i] + 1 > side:
            top, left = bottom, 1
        tops[i], lefts[i] = top, left
        left += widths[i] + 1
        bottom = max(bottom, top + heights[i] + 1)
    return tops, lefts, side


def _centres(
    ids: np.ndarray, rows: np.ndarray, columns: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """The place of each object's first pixel among those nearest to the mean of its pixels."""
    count, down, right = (np.bincount(ids, some) for some in (None, rows, columns))
    # In whole numbers: rounding would decide between pixels that are as near.
    off = (rows * count[ids] - down[ids]) ** 2 + (columns * count[ids] - right[ids]) ** 2
    least = np.full(len(count), np.inf)
    np.minimum.at(least, ids, off)
    nearest = np.flatnonzero(off == least[ids])[::-1]
    centres = np.zeros(len(count), np.intp)
    centres[ids[nearest]] = place[nearest]
    return centres


def destinations(flows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where each pixel of an (H, W) bool mask arrives that follows the (2, H, W) flows: (n,) int.

    Numbers of pixels, counted along the rows. After 8 steps (Euler, flows interpolated linearly, 0
    outside the mask) a pixel takes the way of the one it has come nearest to, 2⁵ times as far.
    """
    height, width = mask.shape
    field = np.zeros((2, height + 1, width + 1), np.float32)
    np.multiply(flows, mask, out=field[:, :-1, :-1])
    field[:, -1], field[:, :, -1] = field[:, -2], field[:, :, -2]
    starts = np.flatnonzero(mask)
    y, x = (part.astype(np.float32) for part in np.divmod(starts, width))
    for _ in range(_STEPS):
        row, column = y.astype(np.intp), x.astype(np.intp)
        below, beside, corner = y - row, x - column, row * (width + 1) + column
        above, ahead, lower = 1 - below, 1 - beside, corner + width + 1
        for place, most, values in ((y, height - 1, field[0]), (x, width - 1, field[1])):
            flow = values.take(corner) * ahead + values.take(corner + 1) * beside
            under = values.take(lower) * ahead + values.take(lower + 1) * beside
            np.clip(place + (flow * above + under * below), 0, most, out=place)
    row, column = (np.rint(part).astype(np.intp) for part in (y, x))
    ends, own = np.arange(mask.size), row * width + column
    for _ in range(_DOUBLINGS):
        ends[starts] = own
        own = ends[own]
    return np.asarray(own)


def gathered(ends: np.ndarray, mask: np.ndarray, distance: int) -> np.ndarray:
    """(n,) pixels at which those of an (H, W) bool mask arrive ► (H, W) int32 ids.

    As in Cellpose, a pixel at which more than 10 arrive, and more than at any other within
    ``distance``, is an object's, with those around it at which more than 2 arrive. Unlike there,
    components of the mask in which nothing was found are objects of their own, as in all targets.
    """
    counts = np.bincount(ends, minlength=mask.size).reshape(mask.shape).astype(np.float32)
    seeds = local_maxima(counts, distance, counts >= _SUPPORT)
    clusters = watershed(-counts, seeds, mask=counts > 2, connectivity=2)
    ids, whole = clusters.reshape(-1)[ends], label_components(mask)[mask]
    found = np.zeros(int(whole.max(initial=0)) + 1, bool)
    found[whole[ids > 0]] = True
    labels = np.zeros(mask.shape, np.int32)
    labels[mask] = np.where(found[whole], ids, whole + ids.max(initial=0))
    return labels


def flow_errors(labels: np.ndarray, flows: np.ndarray) -> np.ndarray:
    """How far (2, H, W) flows are from those of the objects that were found by them: (n + 1,).

    The mean over each object's pixels of the squared length of the difference; 0 for id 0.
    """
    pixels, wanted = np.flatnonzero(labels), object_flows(labels).reshape(2, -1)
    down, right = (np.square(wanted[i, pixels] - flows[i].reshape(-1)[pixels]) for i in (0, 1))
    ids, count = labels.reshape(-1)[pixels], int(labels.max(initial=0)) + 1
    sums, areas = np.bincount(ids, down + right, count), np.bincount(ids, minlength=count)
    return np.asarray(sums / np.maximum(areas, 1))
