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

    def __init__(self, signal: int | None) -> None:
        self.signal = signal

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        os.close(os.open(os.devnull, os.O_RDONLY))
        raise AssertionError("a file could be opened")


def raised_by(failing: Failing) -> RuntimeError | OSError:
    with pytest.raises((RuntimeError, OSError)) as caught:
        list(DataLoader(failing, num_workers=1))
    return caught.value


def test_a_full_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    line = machine_gist(caught.value)
    assert line and "tried to allocate 1152921504606846976 bytes" in line and "batch_size" in line


@pytest.mark.parametrize(
    ("failing", "remedy"),
    [
        (Failing(signal.SIGKILL), "for want of memory"),
        (Failing(signal.SIGBUS), "--shm-size 8g"),
        (Failing(None), "ulimit -n 4096"),
    ],
    ids=["killed", "bus error", "open files"],
)
def test_a_loading_process_that_fails(failing: Failing, remedy: str) -> None:
    line = machine_gist(raised_by(failing))
    assert line and remedy in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "start", "remedy"),
    [
        (
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8 GiB",
            "CUDA out of memory. Tried to allocate 1.50 GiB: lower",
            "bf16-mixed",
        ),
        ("CUDA error: out of memory", "CUDA error: out of memory: lower", "--data.crop"),
        (
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left",
            "/dev/shm is full",
            "--data.num_workers 0",
        ),
        (
            "unable to open shared memory object </torch_1_2_3> in read-write mode: Too many open "
            "files (24)",
            "more files are open",
            "ulimit -n 4096",
        ),
    ],
)
def test_what_this_machine_does_not_meet(text: str, start: str, remedy: str) -> None:
    line = machine_gist(RuntimeError(text))
    assert line and line.startswith(start) and remedy in line


def test_other_errors_keep_their_traceback() -> None:
    assert machine_gist(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    triton = "out of resource: shared memory, Required: 131072, Hardware limit: 101376"
    assert machine_gist(RuntimeError(triton)) is None


def test_the_command_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: list[str]) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("segmentation.commands.predict", full)
    assert main(["predict"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "segmentation: error: CUDA out of memory. Tried to allocate 2 GiB: lower"
    )
    assert error.count("\n") == 1
