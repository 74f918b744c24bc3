"""The order is a function of (seed, epoch) alone; no sample is scored twice or not at all."""

import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segmentation.data.samplers import Draw, Sampling, TrainSampler


def epoch(sampler: TrainSampler, number: int) -> list[Draw]:
    sampler.set_epoch(number)
    return list(sampler)


def test_each_sample_once_an_epoch_in_a_new_order() -> None:
    sampler = TrainSampler(20, seed=0)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert len(sampler) == 20
    for number, draws in enumerate((first, second)):
        assert sorted(draw.index for draw in draws) == list(range(20))
        assert {(draw.epoch, draw.repeat) for draw in draws} == {(number, 0)}
    assert [draw.index for draw in first] != [draw.index for draw in second]
    assert epoch(TrainSampler(20, seed=0), 0) == first
    assert epoch(TrainSampler(20, seed=1), 0) != first


@pytest.mark.parametrize("weights", [None, [1.0] * 9 + [20.0]])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_one_order(weights: list[float] | None, world: int) -> None:
    """The same global batch holds the same draws on one device or several."""
    one = epoch(TrainSampler(10, 7, weights, 24), 3)
    parts = [epoch(TrainSampler(10, 7, weights, 24, rank, world), 3) for rank in range(world)]
    assert all(len(part) == 24 // world for part in parts)
    size = 12
    for start in range(0, 24, size):
        mine = slice(start // world, (start + size) // world)
        together = [draw for part in parts for draw in part[mine]]
        assert Counter(together) == Counter(one[start : start + size])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_equal_shares_by_drawing_again(world: int) -> None:
    samplers = [TrainSampler(13, 0, rank=rank, world_size=world) for rank in range(world)]
    draws = [draw for sampler in samplers for draw in epoch(sampler, 0)]
    assert len({len(sampler) for sampler in samplers}) == 1
    assert len(draws) == -(-13 // world) * world
    assert {draw.index for draw in draws} == set(range(13))
    assert len(set(draws)) == len(draws)  # what comes twice is augmented anew
    assert sorted(draw.repeat for draw in draws) == [0] * 13 + [1] * (len(draws) - 13)


def test_length() -> None:
    assert len(TrainSampler(10, 0, length=4)) == 4
    long = epoch(TrainSampler(10, 0, length=25), 0)
    counts = Counter(draw.index for draw in long)
    assert len(long) == 25 and set(counts.values()) == {2, 3}
    assert len(set(long)) == 25
    assert Counter(draw.repeat for draw in long) == {0: 10, 1: 10, 2: 5}


def test_weights() -> None:
    weights = [1.0, 3.0, 0.0, 4.0]
    sampler = TrainSampler(4, 0, weights, length=8000)
    draws = epoch(sampler, 0)
    counts = Counter(draw.index for draw in draws)
    assert counts[2] == 0
    for index, weight in enumerate(weights):
        assert counts[index] == pytest.approx(1000 * weight, abs=160)  # more than 3 σ
    assert len(set(draws)) == len(draws)
    assert epoch(sampler, 1) != draws


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**70])
def test_a_stream_is_that_of_its_four_numbers(seed: int) -> None:
    wanted = np.random.default_rng([seed, 3, 17, 2]).integers(2**63, size=4)
    assert Draw(17, 3, 2).rng(seed).integers(2**63, size=4).tolist() == wanted.tolist()


def test_streams_differ() -> None:
    """No two draws, and no draw and the order, take the same random numbers."""
    draws = [Draw(i, e, r) for i in range(3) for e in range(3) for r in range(3)]
    seeds = (0, 1, 2**31)
    first = {draw.rng(seed).integers(2**63) for draw in draws for seed in seeds}
    assert len(first) == len(draws) * len(seeds)
    order = np.random.default_rng([0, 0, 0, 0]).permutation(50).tolist()
    assert TrainSampler(50, 0).order() != order
    assert pickle.loads(pickle.dumps(draws)) == draws  # the way to a worker


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("weights", [None, [1.0] * 9 + [20.0]])
def test_an_epoch_goes_on_where_it_was_left(weights: list[float] | None, world: int) -> None:
    """Repeats are counted on, and other epochs are whole."""
    for rank in range(world):
        sampler = TrainSampler(10, 7, weights, 24, rank, world)
        whole = {e: epoch(sampler, e) for e in (2, 3)}
        sampler.skip(2, 5)
        assert list(sampler) == whole[2][5:]
        assert len(sampler) == 24 // world
        assert epoch(sampler, 3) == whole[3]


def test_more_multiplies_what_the_balance_says() -> None:
    entries: Any = [
        SimpleNamespace(id=i, kind="", image=(0, (8, 8, 1), "|u1"), unannotated=0, objects=1)
        for i in "abc"
    ]
    assert Sampling().weights(entries) is None and Sampling().weights(entries, {}) is None
    assert Sampling().weights(entries, {"b": 2.5}) == [1.0, 2.5, 1.0]
    weights = Sampling(balance=1.0).weights(entries, {"a": 0.5})
    assert weights is not None and np.allclose(np.array(weights) / weights[1], [0.5, 1, 1])


def test_few_images_of_a_source_are_drawn_as_often_as_many_of_another() -> None:
    entries: Any = [
        SimpleNamespace(id=i, kind="", image=(0, (8, 8, 1), "|u1"), unannotated=0, objects=1)
        for i in "abcd"
    ]
    by = Sampling(balance=1.0, balance_by="source")
    weights = by.weights(entries, sources={"a": "x", "b": "y", "c": "y", "d": "y"})
    assert weights is not None and np.allclose(np.array(weights) / weights[0], [1, *[1 / 3] * 3])
    assert by.weights(entries) == Sampling(balance=1.0).weights(entries)  # one kind
