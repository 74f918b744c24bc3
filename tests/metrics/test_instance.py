"""`ObjectScores`: pooled and averaged over images, exact in any order."""

import math
import pickle
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentation.metrics import ObjectScores, object_metrics, object_scores, overlaps
from segmentation.metrics.instance import Overlaps
from segmentation.metrics.matching import SCORES

MAPS = np.load(Path(__file__).parent / "fixtures" / "object_scores.npz")
Sample = tuple[Tensor, Tensor]


def make_samples() -> list[Sample]:
    """13 predictions and truths (1, H, W): one without truth, one with nothing, one all missed."""
    names = [f"errors{i}" for i in range(8)] + ["ties", "eroded"]
    pairs = [
        [MAPS[f"{n}.{side}"].astype(np.int32) for side in ("prediction", "truth")] for n in names
    ]
    none = np.zeros_like(pairs[0][0])
    pairs += [[pairs[0][0], none], [none, none], [none, pairs[2][1]]]
    return [(torch.from_numpy(p)[None], torch.from_numpy(t)[None]) for p, t in pairs]


def run(samples: list[Sample]) -> dict[str, float]:
    metric = ObjectScores()
    for prediction, truth in samples:
        metric.update(prediction, truth)
    return {name: score.item() for name, score in metric.compute().items()}


def table(sample: Sample) -> Overlaps:
    prediction, truth = (labels[0].numpy() for labels in sample)
    return overlaps(truth, prediction)


def test_means_over_images_leave_out_what_has_no_score() -> None:
    samples = make_samples()
    result, each = run(samples), [object_scores(table(sample)) for sample in samples]
    for name in SCORES:
        values = [scores[name] for scores in each]
        wanted = np.nanmean(values) if name in ("seg", "matched_iou") else np.mean(values)
        assert result[f"image_{name}"] == pytest.approx(wanted, abs=1e-11), name
    assert set(result) == {*SCORES, *(f"image_{name}" for name in SCORES)}


def test_pooled_scores_are_those_of_one_large_image() -> None:
    samples = make_samples()
    height = max(sample[0].shape[1] for sample in samples)
    sides = []
    for side in (0, 1):
        parts = []
        for k, sample in enumerate(samples):
            labels = sample[side][0].numpy().astype(np.int64)
            labels = np.where(labels > 0, labels + 1000 * k, 0)
            parts.append(np.pad(labels, ((0, height - len(labels)), (0, 0))))
        sides.append(np.concatenate(parts, 1))
    result, wanted = run(samples), object_scores(overlaps(sides[1], sides[0]))
    assert {name: result[name] for name in SCORES} == pytest.approx(wanted, abs=1e-11)


def test_few_and_many_objects_by_hand() -> None:
    one, many = np.zeros((8, 30), np.int32), np.zeros((8, 30), np.int32)
    one[:4, :4] = 1
    for i in range(5):
        many[:4, 6 * i : 6 * i + 4] = i + 1
    empty = np.zeros((8, 30), np.int32)
    truth = torch.tensor(np.stack([one, many, empty]))
    prediction = torch.tensor(np.stack([empty, many, many]))
    result = run([(prediction, truth)])
    wanted = {"seg": 5 / 6, "ap50": 5 / 11, "ap": 5 / 11, "aji": 5 / 11, "pq": 10 / 16}
    # The image without true objects counts 0, but has no SEG.
    wanted |= {"image_seg": 1 / 2, "image_ap50": 1 / 3, "image_ap": 1 / 3, "image_aji": 1 / 3}
    wanted |= {"count_error": 4, "image_count_error": 4 / 3, "image_matched_iou": 1 / 2}
    assert {name: result[name] for name in wanted} == pytest.approx(wanted)


def test_order_and_batches_do_not_matter_to_the_bit() -> None:
    samples = [sample for sample in make_samples() if sample[0].shape == (1, 128, 160)]
    wanted = run(samples)
    assert repr(run(samples[::-1])) == repr(wanted)
    stacked = torch.cat([p for p, _ in samples]), torch.cat([t for _, t in samples])
    assert repr(run([stacked])) == repr(wanted)


def test_names_prefix_clones_and_reset() -> None:
    samples = make_samples()
    metrics = object_metrics()
    val, test = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
    val.update(*samples[0])
    first = {name: score.item() for name, score in val.compute().items()}
    assert set(first) == {f"val/{image}{name}" for name in SCORES for image in ("", "image_")}
    assert first["val/ap50"] == object_scores(table(samples[0]))["ap50"]
    test.update(*samples[4])
    assert test.compute()["test/seg"] != first["val/seg"]
    val.reset()
    val.update(*samples[0])
    assert {name: score.item() for name, score in val.compute().items()} == first


def test_forward_gives_the_batch_and_accumulates() -> None:
    samples = make_samples()[:3]
    metric = ObjectScores()
    for sample in samples:
        batch = {name: score.item() for name, score in metric(*sample).items()}
        assert batch == run([sample])
    assert {name: score.item() for name, score in metric.compute().items()} == run(samples)


def test_no_image_is_no_score_and_no_objects_are() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(map(math.isnan, ObjectScores().compute().values()))
    nothing = torch.zeros(2, 4, 4, dtype=torch.int32)
    result = run([(nothing, nothing)])
    missing = {name for name, value in result.items() if math.isnan(value)}
    assert missing == {"seg", "matched_iou", "image_seg", "image_matched_iou"}
    assert result["pq"] == result["image_ap"] == 1 and result["count_error"] == 0
    assert all(map(math.isnan, run([(nothing[:0], nothing[:0])]).values()))


def test_states_stay_integers_and_survive() -> None:
    metric = ObjectScores().to(torch.bfloat16)
    metric.set_dtype(torch.float16)
    metric.update(*make_samples()[0])
    for state in (metric.counts, metric.image_sums, metric.images):
        assert state.dtype == torch.int64
    copy = pickle.loads(pickle.dumps(metric))
    assert {score.dtype for score in copy.compute().values()} == {torch.float64}
    assert copy.compute() == metric.compute() and metric.state_dict() == {}


def test_refused_maps_leave_the_state_alone() -> None:
    samples, metric = make_samples(), ObjectScores()
    metric.update(*samples[0])
    labels = torch.zeros(4, 4, dtype=torch.int32)
    for one, other in ((labels, labels), (labels[None], labels[None, :3])):
        with pytest.raises(ValueError, match=r"must both be \(B, H, W\)"):
            metric.update(one, other)
    with pytest.raises(ValueError, match="must be integers, got float32"):
        metric.update(labels[None], labels[None].float())
    assert {name: score.item() for name, score in metric.compute().items()} == run(samples[:1])


def test_no_warning_where_a_process_had_no_image() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with patch("torch.distributed.is_initialized", return_value=True):
            metric = ObjectScores(dist_sync_on_step=False, sync_on_compute=False)
            assert math.isnan(metric.compute()["pq"])
