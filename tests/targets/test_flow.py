"""Flows against a plain diffusion, and objects that come back from them."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segmentation.inference import Mean, d4_mean
from segmentation.losses import BCEDice, FlowLoss
from segmentation.metrics import overlaps
from segmentation.targets import Flow, WithClasses
from segmentation.targets.flow import destinations, flow_errors, object_flows
from tests.targets.test_targets import touching_discs


def random_objects(seed: int, side: int = 96) -> np.ndarray:
    """Cells of a random division of the plane that touch, with some background between."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, side, (25, 2))
    place = np.moveaxis(np.mgrid[:side, :side], 0, -1)
    distance = np.linalg.norm(place[:, :, None] - points, axis=-1)
    labels = np.where(distance.min(-1) < rng.uniform(8, 14), distance.argmin(-1) + 1, 0)
    return np.asarray(3 * labels, np.int32)  # ids may have gaps


def slow_flows(labels: np.ndarray) -> np.ndarray:
    """Object by object in float64, as the definition says."""
    flows = np.zeros((2, *labels.shape))
    for i in np.unique(labels[labels > 0]):
        inside = np.pad(labels == i, 1)
        y, x = np.nonzero(inside)
        centre = np.argmin(np.round((y - y.mean()) ** 2 + (x - x.mean()) ** 2, 6))
        heat = np.zeros(inside.shape)
        for _ in range(2 * int(np.ptp(y) + np.ptp(x) + 6)):
            heat[y[centre], x[centre]] += 1
            heat = ndimage.uniform_filter(heat, 3, mode="constant") * inside
        both = np.stack([heat[y + 1, x] - heat[y - 1, x], heat[y, x + 1] - heat[y, x - 1]])
        length = np.maximum(np.hypot(*both), 1e-4 * heat[y, x] + 1e-60)
        flows[:, y - 1, x - 1] = both / length
    return flows


@pytest.mark.parametrize("labels", [touching_discs(), random_objects(0), random_objects(1)])
def test_flows_are_directions_of_heat(labels: np.ndarray) -> None:
    encoded = Flow().encode(labels)
    assert encoded.shape == (3, *labels.shape) and encoded.dtype == torch.float32
    np.testing.assert_array_equal(encoded[0].numpy(), labels > 0)
    np.testing.assert_allclose(encoded[1:].numpy(), slow_flows(labels), atol=5e-3)


def best_overlaps(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each object the best IoU of what was found, and that nothing else was."""
    table = overlaps(labels, found)
    best = np.zeros(len(table.truth))
    np.maximum.at(best, table.i, table.iou)
    assert len(table.prediction) == len(table.truth)
    return best


def odd_objects() -> np.ndarray:
    """A pixel, two pixels, lines, objects that the border cuts, and two touching bands."""
    labels = np.zeros((80, 90), np.int32)
    labels[3, 3], labels[3, 10:12] = 1, 2
    labels[10, 5:60], labels[20:75, 5] = 3, 4
    labels[:8, 70:], labels[74:, 60:80] = 5, 6
    labels[30:36, 20:70], labels[36:42, 20:70] = 7, 8
    return labels


@pytest.mark.parametrize(
    "labels", [touching_discs(), odd_objects(), *map(random_objects, range(4))]
)
def test_objects_come_back(labels: np.ndarray) -> None:
    target = Flow()
    assert best_overlaps(labels, target.decode(target.encode(labels).numpy())).min() > 0.9


@pytest.mark.parametrize("value", [0, 4])
def test_an_image_of_one_object_or_none(value: int) -> None:
    labels, target = np.full((24, 40), value, np.int32), Flow()
    found = target.decode(target.encode(labels).numpy())
    np.testing.assert_array_equal(found, labels > 0)


def test_large_objects_flow_to_their_centre_too() -> None:
    labels = np.zeros((340, 330), np.int32)
    labels[10:320, 15:325], labels[330:336, 5:12] = 2, 1
    flows = object_flows(labels)
    y, x = np.mgrid[:340, :330]
    way = np.stack([165 - y, 170 - x]) / np.maximum(np.hypot(165 - y, 170 - x), 1)
    ring = np.abs(np.hypot(165 - y, 170 - x) - 75) < 30
    assert (way * flows).sum(0)[ring].mean() > 0.98
    assert np.abs(flows[:, labels == 1]).max() == 1


def test_pixels_follow_the_flows() -> None:
    """Against 256 steps one by one."""
    labels = touching_discs()[:100, :90]
    flows = object_flows(labels) + np.random.default_rng(0).normal(0, 0.1, (2, 100, 90))
    flows, mask = flows.astype(np.float32), labels > 0
    place = np.stack(np.nonzero(mask)).astype(float)
    for _ in range(256):
        step = [ndimage.map_coordinates(part * mask, place, order=1) for part in flows]
        place = (place + step).clip(0, [[99], [89]])
    found = np.stack(np.divmod(destinations(flows, mask), 90))
    assert np.hypot(*(found - place)).max() < 2.5  # they circle around the centre


def test_what_flows_otherwise_is_dropped() -> None:
    labels = touching_discs()
    probs = Flow().encode(labels).numpy()
    way = np.array([[62], [35]]) - np.nonzero(labels == 3)  # to its top, not its centre
    probs[1:, labels == 3] = way / np.maximum(np.hypot(*way), 1)
    errors = flow_errors(labels, probs[1:])
    assert errors.argmax() == 3 and errors[3] > 0.5 and np.delete(errors, 3).max() < 0.01
    assert (Flow(flow_error=0.0).decode(probs) > 0)[labels == 3].all()
    np.testing.assert_array_equal(Flow().decode(probs) > 0, (labels > 0) & (labels != 3))


def test_peak_distance_joins_what_ends_near_each_other() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:34] = 1, 2
    probs = Flow().encode(labels).numpy()
    assert Flow().decode(probs).max() == 2
    assert Flow(peak_distance=14, flow_error=0).decode(probs).max() == 1
    assert Flow(peak_distance=8).at_scale(2).peak_distance == 4


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_flows_are_turned_back(turns: int, mirrored: bool, wrapped: bool) -> None:
    labels = random_objects(2, 64)
    target = WithClasses(Flow(), ["a"]) if wrapped else Flow()
    wanted = torch.zeros(1, target.classes, 64, 64)
    wanted[0, :3] = Flow().encode(labels)
    image = labels[:, ::-1] if mirrored else labels
    seen = wanted.clone()
    seen[0, :3] = Flow().encode(np.ascontiguousarray(np.rot90(image, turns)))
    back = target.turned_back(seen.rot90(-turns, (-2, -1)), turns, mirrored)
    back = back.flip(-1) if mirrored else back
    off = (back - wanted).abs().amax(1)  # two pixels may be as near to the mean
    assert (off > 0.05).float().mean() < 0.02 and off.median() < 1e-3


def test_symmetries_are_averaged() -> None:
    labels, target = touching_discs(), Flow()

    def network(image: torch.Tensor) -> torch.Tensor:
        return target.encode(image[0, 0].numpy().astype(np.int32))[None]

    image = torch.from_numpy(labels.astype(np.float32))[None, None]
    mean = d4_mean(network, image, target.turned_back, target.vectors)
    off = (mean[0] - target.encode(labels)).abs()
    assert off.max() < 1 and off.median() < 1e-3 and off.mean() < 0.01
    np.testing.assert_array_equal(
        best_overlaps(labels, target.decode(mean[0].numpy())) > 0.97, True
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_answers_that_disagree_on_a_direction_lose_no_object(wrapped: bool) -> None:
    labels = touching_discs()
    target = WithClasses(Flow(), ["a"]) if wrapped else Flow()
    right = Flow().encode(labels)
    plain, mean = [], Mean(target.vectors)
    for angle in (-1.3, 1.3):  # radians: their plain mean has a length of .27
        cos, sin = np.cos(angle), np.sin(angle)
        turned = torch.stack([cos * right[1] - sin * right[2], sin * right[1] + cos * right[2]])
        plain.append(torch.cat([right[:1], turned]))
        mean.add(plain[-1])
    torch.testing.assert_close(mean.result(), right, atol=1e-5, rtol=0)
    assert Flow().decode(mean.result().numpy()).max() == labels.max()
    assert Flow().decode(torch.stack(plain).mean(0).numpy()).max() == 0


def test_the_loss_is_what_it_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, requires_grad=True)
    target = torch.zeros(2, 3, 6, 7)
    target[0, 0, 2:5, 2:5], target[0, 1:, 2:5, 2:5] = 1, torch.rand(2, 3, 3)
    error = (logits[:, 1:] - 5 * target[:, 1:]).square().sum(1) / 4
    inside = target[:, 0] > 0
    loss = FlowLoss(flow_weight=3.0)(logits, target)
    wanted = BCEDice()(logits[:, :1], target[:, :1]) + 3 * (
        error[inside].sum() / (9 + 1) + error[~inside].sum() / (84 - 9 + 1)
    )
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert logits.grad is not None and logits.grad.abs().min() > 0
    right = torch.cat([60 * target[:, :1] - 30, 5 * target[:, 1:]], dim=1)
    assert FlowLoss()(right, target) < 1e-6
    probs = Flow().probabilities(right.half())
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, target, atol=1e-3, rtol=0)


def test_the_loss_refuses_other_shapes() -> None:
    two = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="3 channels, got 2"):
        FlowLoss()(two, two)
    with pytest.raises(ValueError, match="differ in shape"):
        FlowLoss()(two, two[:, :1].repeat(1, 1, 1, 2))
    with pytest.raises(ValueError, match=r"loss\.flow_weight: -1 must not be negative"):
        FlowLoss(-1)
