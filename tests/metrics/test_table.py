"""The table of scores: from the definitions, in any order, on any number of processes."""

import math
import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes
from torchmetrics import JaccardIndex
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
)

from segmentation.metrics import AUROC, F1, OBJECT_SCORES, IoU, ScoreTable, better
from segmentation.metrics.counts import object_counts, overlaps
from segmentation.metrics.scores import object_scores, pixel_scores, ranking_scores
from segmentation.score_names import LOGGED

MAPS = np.load(Path(__file__).parent / "fixtures" / "object_scores.npz")
NAN = math.nan
Sample = tuple[Tensor, Tensor, Tensor]


def samples() -> list[Sample]:
    """13 truths, predictions, probabilities (1, H, W): without truth, without any, all missed."""
    names = [f"errors{i}" for i in range(8)] + ["ties", "eroded"]
    pairs = [[MAPS[f"{n}.{side}"].astype(np.int32) for side in ("truth", "prediction")]
             for n in names]  # fmt: skip
    none = np.zeros_like(pairs[0][0])
    pairs += [[none, pairs[0][1]], [none, none], [pairs[2][0], none]]
    generator = torch.Generator().manual_seed(0)
    found = []
    for pair in pairs:
        truth, labels = (torch.from_numpy(labels)[None] for labels in pair)
        noise = torch.randn(truth.shape, generator=generator)
        found.append((truth, labels, (2 * noise + 6.0 * (labels > 0) - 3).sigmoid()))
    return found


def filled(some: list[Sample], start: int = 0, **more: Any) -> ScoreTable:
    table = ScoreTable(**more)
    for number, sample in enumerate(some, start=start):
        about: dict[str, Any] = {
            "ids": [f"{number:02}é"],
            "kinds": ["kind"],
            "groups": [str(number % 3)],
        }
        if table.class_names:  # those of true objects repeat, those of predicted ones less often
            numbers = [torch.arange(int(side.max()) + 1) for side in sample[:2]]
            about |= {"classes": [numbers[0] % 3 + 1], "found_classes": [numbers[1] // 2 % 3 + 1]}
            for side in about["classes"] + about["found_classes"]:
                side[0] = 0
        table.update(*sample, **about)
    return table


def values(table: ScoreTable) -> dict[str, float]:
    return {name: score.item() for name, score in table.compute().items()}


# Definitions


def test_scores_are_those_of_concatenated_pixels_and_means_over_images() -> None:
    found = values(filled(samples()))
    masks = [(probs > 0.5, truth > 0) for truth, _, probs in samples()]
    predicted, truth = (torch.cat([m.flatten() for m in side]) for side in zip(*masks, strict=True))
    probs = torch.cat([p.flatten() for _, _, p in samples()])
    iou, f1 = BinaryJaccardIndex(zero_division=1), BinaryF1Score(zero_division=1)
    wanted = {
        "iou": iou(predicted, truth),
        "f1": f1(predicted, truth),
        "precision": BinaryPrecision()(predicted, truth),
        "recall": BinaryRecall()(predicted, truth),
        "mean_iou": JaccardIndex(task="multiclass", num_classes=2)(predicted.int(), truth.int()),
        "image_iou": torch.stack([iou(*pair) for pair in masks]).mean(),
        "image_f1": torch.stack([f1(*pair) for pair in masks]).mean(),
    }
    wanted = {name: float(value) for name, value in wanted.items()}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, probs), abs=1e-3)
    exact = average_precision_score(truth, probs)
    assert found["average_precision"] == pytest.approx(exact, abs=1e-3)
    counts = [
        object_counts(overlaps(t[0].numpy(), labels[0].numpy())) for t, labels, _ in samples()
    ]
    pooled = {name: float(score) for name, score in object_scores(np.sum(counts, 0)).items()}
    assert {name: found[name] for name in OBJECT_SCORES} == pytest.approx(pooled)
    for name in OBJECT_SCORES:
        each = [object_scores(one)[name] for one in counts]
        assert found[f"image_{name}"] == pytest.approx(np.nanmean(each), abs=1e-12), name
    assert tuple(found) == LOGGED


@pytest.mark.parametrize(
    ("counts", "wanted"),  # IoU, F1, precision, recall, mean IoU
    [
        ([0, 0, 0, 9], [1, 1, 1, 1, 1]),
        ([0, 3, 0, 6], [0, 0, 0, 0, 6 / 9 / 2]),
        ([0, 0, 3, 6], [0, 0, 0, 0, 6 / 9 / 2]),
        ([9, 0, 0, 0], [1, 1, 1, 1, 1]),
        ([0, 0, 0, 0], [NAN] * 5),
        ([3, 1, 2, 4], [3 / 6, 6 / 9, 3 / 4, 3 / 5, (3 / 6 + 4 / 7) / 2]),
    ],
)
def test_pixels_and_the_policy_for_empty_masks(counts: list[int], wanted: list[float]) -> None:
    found = [float(score) for score in pixel_scores(np.array(counts)).values()]
    assert found == pytest.approx(wanted, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    ("hist", "auroc", "ap"),
    [
        # Descending: one foreground pixel, a tie of one of each, one background pixel.
        ([[0, 1, 1], [1, 1, 0]], (2 + 1.5) / 4, 0.5 * 1 + 0.5 * 2 / 3),
        ([[0, 5], [7, 0]], 1, 1),
        # The product of the two counts does not fit int64.
        ([[10**11, 3 * 10**11], [3 * 10**11, 10**11]], 12 / 16, 0.75 * 0.75 + 0.25 * 0.5),
        ([[3, 4], [0, 0]], NAN, 1),
        ([[0, 0], [3, 4]], NAN, NAN),
        ([[0, 0], [0, 0]], NAN, NAN),
    ],
)
def test_ranking_in_closed_form(hist: list[list[int]], auroc: float, ap: float) -> None:
    found = ranking_scores(np.array(hist))
    assert float(found["auroc"]) == pytest.approx(auroc, abs=1e-15, nan_ok=True)
    assert float(found["average_precision"]) == pytest.approx(ap, abs=1e-15, nan_ok=True)


def test_few_and_many_objects_by_hand() -> None:
    one, many = np.zeros((8, 30), np.int32), np.zeros((8, 30), np.int32)
    one[:4, :4] = 1
    for i in range(5):
        many[:4, 6 * i : 6 * i + 4] = i + 1
    empty = np.zeros((8, 30), np.int32)
    table = ScoreTable()
    truth, labels = np.stack([one, many, empty]), np.stack([empty, many, many])
    table.update(torch.from_numpy(truth), torch.from_numpy(labels))
    wanted = {"seg": 5 / 6, "ap50": 5 / 11, "ap": 5 / 11, "aji": 5 / 11, "pq": 10 / 16}
    # The image without true objects counts 0, but has no SEG.
    wanted |= {"image_seg": 1 / 2, "image_ap50": 1 / 3, "image_ap": 1 / 3, "image_aji": 1 / 3}
    wanted |= {"count_error": 4, "image_count_error": 4 / 3, "image_matched_iou": 1 / 2}
    found = values(table)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert math.isnan(found["auroc"])  # without probabilities


def test_which_values_are_good() -> None:
    assert better("image_count_error") == "near 0" and better("ap50") == "higher"
    assert better("image_hd95") == better("image_abs_count_error") == better("ece") == "lower"


def test_classes_of_single_scores_say_what_the_table_says() -> None:
    table = values(filled(samples()))
    for name, metric in {"iou": IoU(), "f1": F1(), "auroc": AUROC()}.items():
        for truth, _, probs in samples():
            metric.update(probs, truth)
        assert float(metric.compute()) == pytest.approx(table[name], rel=1e-6)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(IoU().compute()) and math.isnan(AUROC().compute())


# The table


def test_rows_name_each_image_and_hold_its_counts_and_scores() -> None:
    frame = filled(samples()[::-1], boundary=True).rows()
    assert list(frame)[:7] == ["id", "kind", "group", "tp", "fp", "fn", "tn"]
    assert frame["id"].tolist() == [f"{i:02}é" for i in range(13)]
    assert frame["group"][4] == "1" and set(frame["kind"]) == {"kind"}
    assert {"boundary_f", "hd95", "iou", "ap", "aji_union"} < set(frame)
    assert frame["tp"].dtype == frame["seg_iou"].dtype == np.int64
    pixels = frame[["tp", "fp", "fn", "tn"]].sum(axis=1)
    assert sorted(pixels) == sorted(truth.numel() for truth, _, _ in samples())
    assert ScoreTable().rows().empty


def test_a_threshold_of_its_own_and_pixels_alone() -> None:
    probs = torch.tensor([[[0.1, 0.3, 0.3, 0.9]]])
    table = ScoreTable(0.3, objects=False)
    table.update(torch.tensor([[[0, 1, 0, 5]]]), probs=probs)
    assert table.rows()[["tp", "fp", "fn", "tn"]].to_numpy().tolist() == [[1, 0, 1, 2]]
    assert set(table.compute()) < set(LOGGED) and "ap50" not in table.compute()
    with pytest.raises(ValueError, match="threshold must be in"):
        ScoreTable(1.5)


def test_order_and_batches_do_not_matter_to_the_bit() -> None:
    some = [sample for sample in samples() if sample[0].shape == (1, 128, 160)]
    wanted = values(filled(some))
    assert repr(values(filled(some[::-1]))) == repr(wanted)
    truth, labels, probs = (torch.cat(parts) for parts in zip(*some, strict=True))
    table = ScoreTable()
    table.update(truth, labels, probs)
    assert repr(values(table)) == repr(wanted)


def test_no_image_is_no_score() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(map(math.isnan, values(ScoreTable()).values()))
    none = torch.zeros(0, 4, 4, dtype=torch.int32)
    table = ScoreTable()
    table.update(none, none)
    assert set(map(math.isnan, values(table).values())) == {True} and tuple(values(table)) == LOGGED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.zeros(1, 3, 4).int()}, r"must both be \(B, H, W\)"),
        ({"labels": torch.zeros(1, 4, 4)}, "must be integers, got float32"),
        ({"labels": torch.zeros(1, 4, 4).int(), "probs": torch.full((1, 4, 4), 2.0)}, "logits"),
        ({"probs": torch.zeros(1, 4, 4)}, "labels are missing"),
        ({"labels": torch.zeros(1, 4, 4).int(), "ids": ["a", "b"]}, "zip"),
    ],
)
def test_refused_images_leave_the_table_alone(arguments: dict[str, Any], message: str) -> None:
    table = filled(samples()[:2])
    with pytest.raises(ValueError, match=message):
        table.update(torch.zeros(1, 4, 4, dtype=torch.int32), **arguments)
    assert values(table) == values(filled(samples()[:2]))


@pytest.mark.parametrize(
    "cast",
    [
        lambda table: table.half(),
        lambda table: torch.nn.ModuleDict({"table": table}).to(torch.bfloat16),
        lambda table: pickle.loads(pickle.dumps(table)),
        lambda table: table.clone(),
    ],
    ids=["half", "parent", "pickle", "clone"],
)
def test_casts_and_copies_keep_the_counts(cast: Any) -> None:
    table = filled(samples()[:6])
    copy = cast(table)
    copy = copy if isinstance(copy, ScoreTable) else table
    for sample in samples()[6:]:
        copy.update(*sample)
    assert values(copy) == values(filled(samples()))
    assert copy.state_dict() == {}  # scores are no part of a checkpoint


# Processes

SHARES = {  # of the 13 samples, by number of processes
    "nearly even": {1: [13], 2: [7, 6], 3: [5, 4, 4]},
    "uneven": {1: [13], 2: [2, 11], 3: [10, 1, 2]},
    "none on one": {1: [13], 2: [0, 13], 3: [6, 0, 7]},
}
WORLDS = (1, 2, 3)
CLASSES = ("a", "b", "c")
GROUPS: list[Any] = []  # kept: torch 2.6 can hang in the destructor of a group


def work(rank: int, folder: Path) -> None:
    """Score this rank's share of the samples in a group of one, two and three processes."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for world in range(rank + 1, max(WORLDS) + 1):
        group = f"file://{folder}/group{world}"
        distributed.init_process_group("gloo", init_method=group, rank=rank, world_size=world)
        for name, shares in SHARES.items():
            start = sum(shares[world][:rank])
            some = samples()[start : start + shares[world][rank]]
            table = filled(some, start, boundary=True, class_names=CLASSES)
            frame = table.rows()
            found = values(table), frame, table.rows()
            (folder / f"{name}, {rank} of {world}").write_bytes(pickle.dumps(found))
        GROUPS.append(distributed.group.WORLD)
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all groups: three processes are started once and form one group after another."""
    folder = tmp_path_factory.mktemp("processes")
    # Importing torchmetrics takes seconds: the fork server does so once for all processes.
    multiprocessing.set_forkserver_preload(["segmentation.metrics", "sklearn.metrics", "pandas"])
    start_processes(work, (folder,), nprocs=max(WORLDS), start_method="forkserver")  # type: ignore[no-untyped-call]  # torch has none
    return folder


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SHARES)
def test_same_table_on_any_number_of_processes(folder: Path, name: str, world: int) -> None:
    whole = filled(samples(), boundary=True, class_names=CLASSES)
    assert 0 < whole.compute()["class_pq"] < 1
    for rank in range(world):
        found = pickle.loads((folder / f"{name}, {rank} of {world}").read_bytes())
        assert found[0] == values(whole)  # bit for bit
        for frame in found[1:]:  # asking changes nothing
            pd.testing.assert_frame_equal(frame, whole.rows(), check_exact=True)
            assert len(frame) == 13


@pytest.mark.parametrize("metric", [IoU, F1, AUROC])
@pytest.mark.parametrize("value", [math.nan, -0.1, 2.0])
def test_what_is_no_probability_is_refused(metric: Any, value: float) -> None:
    with pytest.raises(ValueError, match="probs must be in"):
        metric().update(torch.full((1, 2, 2), value), torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="differ in shape"):
        metric().update(torch.zeros(2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
