"""What a machine cannot do is said in one line, from what PyTorch really raises."""

import os
import resource
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from segmentation.__main__ import main
from segmentation.training.messages import machine_gist


class Failing(Dataset[torch.Tensor]):
    """Ends its loading process, or fills its table of open files."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.number is not None:
            os.kill(os.getpid(), self.number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        os.close(os.open(os.devnull, os.O_RDONLY))
        raise AssertionError("a file could be opened")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (signal.SIGKILL, "for want of memory"),
        (signal.SIGBUS, "--shm-size 8g"),
        (None, "ulimit -n 4096"),
    ],
    ids=["killed", "bus error", "open files"],
)
def test_a_loading_process_that_fails(number: int | None, remedy: str) -> None:
    with pytest.raises((RuntimeError, OSError)) as caught:
        list(DataLoader(Failing(number), num_workers=1))
    line = machine_gist(caught.value)
    assert line and remedy in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8 GiB",
            ["CUDA out of memory. Tried to allocate 1.50 GiB: lower", "bf16-mixed"],
        ),
        ("CUDA error: out of memory", ["CUDA error: out of memory: lower", "--data.crop"]),
        (
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left",
            ["/dev/shm is full", "--data.num_workers 0"],
        ),
        (
            "unable to open shared memory object </torch_1_2_3> in read-write mode: Too many open "
            "files (24)",
            ["more files are open", "ulimit -n 4096"],
        ),
    ],
)
def test_what_this_machine_does_not_meet(text: str, words: list[str]) -> None:
    line = machine_gist(RuntimeError(text))
    assert line and line.startswith(words[0]) and words[1] in line


def test_a_full_memory_and_errors_that_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    line = machine_gist(caught.value)
    assert line and "tried to allocate 1152921504606846976 bytes" in line and "batch_size" in line
    assert machine_gist(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    triton = "out of resource: shared memory, Required: 131072, Hardware limit: 101376"
    assert machine_gist(RuntimeError(triton)) is None


def test_the_command_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("segmentation.training.cli.fit", full)
    assert main(["fit"]) == 2
    error = capsys.readouterr().err
    start = "segmentation: error: CUDA out of memory. Tried to allocate 2 GiB: lower"
    assert start in error and error.count("\n") == 2  # what it does, and the error
