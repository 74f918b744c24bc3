"""The same figures, to the bit, on any number of processes, whatever their shares of the images."""

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes
from torchmetrics import MetricCollection

from segmentation.metrics import object_metrics
from tests.metrics import test_instance, test_pixel

SHARES = {  # of the 13 samples, by number of processes
    "nearly even": {1: [13], 2: [7, 6], 3: [5, 4, 4]},
    "uneven": {1: [13], 2: [2, 11], 3: [10, 1, 2]},
    "none on one": {1: [13], 2: [0, 13], 3: [6, 0, 7]},
}
WORLDS = (1, 2, 3)
GROUPS: list[Any] = []  # kept: torch 2.6 can hang in the destructor of a group


def cases() -> dict[str, tuple[MetricCollection, list[tuple[Tensor, Tensor]]]]:
    """Scores that have seen nothing yet, and 13 images for them."""
    return {
        "pixels": (test_pixel.make_metrics(), test_pixel.make_samples()),
        "objects": (object_metrics(), test_instance.make_samples()),
    }


def work(rank: int, folder: Path) -> None:
    """Score this rank's share of the samples in a group of one, two and three processes."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for world in range(rank + 1, max(WORLDS) + 1):
        group = f"file://{folder}/group{world}"
        distributed.init_process_group("gloo", init_method=group, rank=rank, world_size=world)
        for name, shares in SHARES.items():
            start = sum(shares[world][:rank])
            stop = start + shares[world][rank]
            for kind, (metrics, samples) in cases().items():
                values = test_pixel.run(metrics, samples[start:stop])
                found = values, summed_states(metrics)
                torch.save(found, folder / f"{kind}, {name}, {rank} of {world}")
        GROUPS.append(distributed.group.WORLD)
        distributed.destroy_process_group()


def summed_states(metrics: MetricCollection) -> dict[str, Tensor]:
    """The states of all metrics, summed over the processes of the group if there is one."""
    states: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        with metric.sync_context(should_unsync=distributed.is_initialized()):
            for key, state in metric.metric_state.items():
                states[f"{name}.{key}"] = torch.as_tensor(state).clone()
    return states


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all groups: three processes are started once and form one group after another."""
    folder = tmp_path_factory.mktemp("processes")
    # Importing torchmetrics takes seconds: the fork server does so once for all processes.
    multiprocessing.set_forkserver_preload(["segmentation.metrics", "sklearn.metrics"])
    start_processes(work, (folder,), nprocs=max(WORLDS), start_method="forkserver")  # type: ignore[no-untyped-call]  # torch has none
    return folder


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("kind", ["pixels", "objects"])
def test_same_figures_on_any_number_of_processes(
    folder: Path, kind: str, name: str, world: int
) -> None:
    metrics, samples = cases()[kind]
    expected = test_pixel.run(metrics, samples)
    expected_states = summed_states(metrics)
    assert sum(SHARES[name][world]) == len(samples) == 13
    for rank in range(world):
        path = folder / f"{kind}, {name}, {rank} of {world}"
        values, states = torch.load(path, weights_only=True)
        assert values == expected  # bit for bit
        assert states.keys() == expected_states.keys()
        assert all(torch.equal(states[key], expected_states[key]) for key in states)
