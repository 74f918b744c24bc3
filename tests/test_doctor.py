"""The page on the machine, with machines that are made up."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segmentation.__main__ import main
from segmentation.cores import usable_cores
from segmentation.doctor import speed, system
from segmentation.doctor.data import check_data, check_wandb
from segmentation.doctor.finding import GIB, Finding
from segmentation.doctor.gpu import Gpu, Torch, check_gpus, nvidia_smi, read_torch, supported
from segmentation.doctor.packages import check_packages, check_python
from segmentation.doctor.speed import FULL, Advice, choose, fewest, has_bf16, measure
from tests.helpers import refusal

SMI = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |"
H200 = Gpu("NVIDIA H200", (9, 0), 130 * GIB, 140 * GIB)


def test_a_line_says_what_was_found_and_what_to_do() -> None:
    assert str(Finding("ok", "shm", "plenty")).split() == ["ok", "shm", "plenty"]
    first, second = str(Finding("error", "shm", "64 MiB", "more")).splitlines()
    assert first.split() == ["ERROR", "shm", "64", "MiB"] and second.split() == ["►", "more"]


def test_python_and_packages() -> None:
    assert check_python((3, 11)).status == "ok" and check_python((3, 10)).status == "error"
    have = {"torch": "2.15.0+cpu", "numpy": "2.4.6"}
    wanted = ["torch>=2.6", "numpy", 'mypy>=9; extra == "dev"', 'nothing; python_version < "3"']
    assert check_packages(wanted, have).status == "ok"
    assert "torch 2.15.0+cpu" in check_packages(wanted, have).text
    old = check_packages([*wanted, "Torch-Vision>=0.21", "numpy>3"], have)
    assert old.status == "error"
    assert old.remedy == "pip install 'Torch-Vision>=0.21' 'numpy>3'"
    assert check_packages(wanted, {**have, "opencv-python": "4.13"}).status == "warning"


@pytest.mark.parametrize(
    ("smi", "torch", "environ", "status", "said"),
    [
        (None, Torch(None), {}, "warning", "no NVIDIA GPU"),
        (None, Torch(None, mps=True), {}, "ok", "mps"),
        (
            SMI,
            Torch("12.8", ("sm_90",), (H200,)),
            {},
            "ok",
            "driver 550.54.15, PyTorch's CUDA 12.8",
        ),
        (None, Torch("12.8", ("sm_90",), (H200,)), {}, "ok", "driver unknown"),
        (SMI, Torch("12.8", ("sm_75", "sm_100"), (H200,)), {}, "error", "no code for its sm_90"),
        (SMI, Torch(None), {}, "error", "a build without CUDA"),
        (SMI, Torch("13.0"), {}, "error", "for CUDA 12.4, but PyTorch is built for CUDA 13.0"),
        (SMI.replace("CUDA", "CUDA UMD"), Torch("13.0"), {}, "error", "built for CUDA 13.0"),
        (SMI, Torch("12.8"), {"CUDA_VISIBLE_DEVICES": ""}, "error", "CUDA_VISIBLE_DEVICES is ''"),
        (SMI, Torch("12.8"), {}, "error", "sees no GPU"),
        ("No devices were found\n", Torch("12.8"), {}, "error", "No devices were found"),
        ("", Torch("12.8"), {}, "error", "nvidia-smi says: nothing"),
    ],
)
def test_gpu_driver_and_cuda(
    smi: str | None, torch: Torch, environ: dict[str, str], status: str, said: str
) -> None:
    (found,) = check_gpus(smi, torch, environ)
    assert (found.status, found.name) == (status, "gpu")
    assert said in found.text
    assert bool(found.remedy) == (status != "ok")


def test_a_gpu_that_others_fill() -> None:
    full = Gpu("NVIDIA H200", (9, 0), GIB, 140 * GIB)
    free, filled = check_gpus(SMI, Torch("12.8", ("sm_90",), (H200, full)), {})
    assert (free.status, filled.status) == ("ok", "warning")
    assert "1.0 of 140.0 GiB free" in filled.text


@pytest.mark.parametrize(
    ("capability", "archs", "fits"),
    [
        ((8, 6), ["sm_80"], True),  # the same generation
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # PTX
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((12, 0), ["sm_100"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 0), [], False),
    ],
)
def test_which_gpu_runs_which_code(
    capability: tuple[int, int], archs: list[str], fits: bool
) -> None:
    assert supported(capability, archs) is fits


def test_nvidia_smi_absent_and_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{SMI}'\necho trouble >&2\nexit 9\n")
    program.chmod(0o755)
    assert nvidia_smi() == f"{SMI}\ntrouble\n"
    program.write_text("no program")
    assert "nvidia-smi" in str(nvidia_smi())


def test_torch_without_its_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(read_torch(), Torch)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    found = read_torch()
    assert isinstance(found, Finding) and found.status == "error"
    assert "torchvision" in found.text


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ({"job/step/cpu.max": "1200000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_cores_under_a_quota(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    (tmp_path / "cgroup").write_text("1:cpu:/v1\n0::/job/step\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert usable_cores(tmp_path / "groups", tmp_path) == cores


def test_cores_against_loading_processes() -> None:
    assert system.check_cores(8, 8, 8).status == "ok"
    few = system.check_cores(2, 64, 8)
    assert few.status == "warning" and "--data.num_workers 2" in few.remedy


def test_shared_memory() -> None:
    assert system.check_shared_memory(None, 8).status == "ok"
    assert system.check_shared_memory(8 * GIB, 8).status == "ok"
    docker = system.check_shared_memory(64 * 2**20, 8)
    assert docker.status == "error" and "--shm-size" in docker.remedy
    assert system.check_shared_memory(64 * 2**20, 2).status == "warning"


@pytest.mark.parametrize(
    ("soft", "hard", "status"),
    [(-1, -1, "ok"), (1024, 4096, "ok"), (1000, 4096, "warning"), (100, 4096, "error")],
)
def test_open_files(soft: int, hard: int, status: str) -> None:
    assert system.check_files(soft, hard).status == status


def test_open_files_that_only_root_can_raise() -> None:
    assert "ulimit -n 4096" in system.check_files(512, -1).remedy
    assert "which is 512" in system.check_files(512, 512).remedy


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((50 * GIB, "ok"), (5 * GIB, "warning"), (GIB // 2, "error")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(system.shutil, "disk_usage", lambda _, usage=usage: usage)
        found = system.check_disk("runs", tmp_path / "not" / "yet", "--run.root")
        assert found.status == status
        assert ("--run.root" in found.remedy) == (status != "ok")
    (tmp_path / "file").touch()
    blocked = system.check_disk("runs", tmp_path / "file" / "runs", "--run.root")
    assert blocked.status == "error" and "file cannot be written" in blocked.text


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "no login" in check_wandb({}).text
    assert "offline" in check_wandb({"WANDB_MODE": "offline"}).text
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert "logged in" in check_wandb({}).text


def test_data(
    dsb_root: Path, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = check_data(dsb_root)
    assert found.status == "ok" and "dsb2018, 16 images, 12 with masks" in found.text
    monkeypatch.chdir(tmp_path)
    (nothing,) = check_data(None)
    assert nothing.status == "warning" and "segmentation prepare" in nothing.remedy
    (gone,) = check_data(Path("gone"))
    assert gone.status == "error"
    data = tmp_path / "data"
    data.mkdir()
    (empty,) = check_data(None)
    assert empty.status == "warning" and "is empty" in empty.text
    (data / "mine").symlink_to(folder_root)
    (data / "bbbc039").mkdir()
    broken, mine = check_data(None)
    assert broken.status == "error" and "prepare bbbc039" in broken.remedy
    assert mine.status == "ok" and "folder, 9 images, 9 with masks" in mine.text
    assert [f.text for f in check_data(data)] == [
        f.text.replace("data", str(data), 1) for f in (broken, mine)
    ]


def test_choice_of_batch_and_precision() -> None:
    rates = {(4, FULL): 50.0, (8, FULL): 96.0, (16, FULL): 100.0, (8, "bf16-mixed"): 105.0}
    assert choose(rates) == (8, FULL)  # not worth it
    assert choose({**rates, (16, "bf16-mixed"): 200.0}) == (16, "bf16-mixed")
    assert fewest({0: 50.0, 1: 95.0, 2: 100.0, 4: 90.0}) == 1
    words = str(Advice(8, 2, FULL))
    assert words == "--data.batch_size 8 --data.num_workers 2 --trainer.precision 32-true"


def test_half_precision_of_a_processor(tmp_path: Path) -> None:
    for flags, has in (("avx512f avx512_bf16", True), ("avx512f", False), ("asimd bf16", True)):
        (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
        assert has_bf16(tmp_path / "cpuinfo") is has
    assert not has_bf16(tmp_path / "none")


# Since Python 3.12 a process with threads warns when it forks; PyTorch's loaders fork.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_speed_test_measures() -> None:
    lines: list[str] = []
    advice = measure(2, 2, lines.append, crop=32, width=2)
    assert advice.batch_size in (4, 8, 16, 32, 64, 128) and advice.num_workers in (0, 1, 2)
    assert "32-true" in lines[0] and lines[1].startswith("batch 4")


def test_the_start_of_loading_processes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def loaded() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        clock[0] += 100  # until the first batch is there
        while True:
            yield torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8)

    class Trainer(speed._Trainer):
        def _step(self, *_: object) -> None:
            clock[0] += 2

    monkeypatch.setattr("segmentation.doctor.speed.time.perf_counter", lambda: clock[0])
    trainer = Trainer(torch.nn.Conv2d(3, 1, 1), torch.device("cpu"))
    assert trainer.rate(loaded(), FULL, seconds=10) == 2


def test_the_page(
    dsb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("segmentation.doctor.gpu.nvidia_smi", lambda: None)
    page = ["doctor", f"--data.root={dsb_root}", f"--run.root={tmp_path}", "--seconds=0"]
    monkeypatch.setattr("segmentation.doctor.system.check_files", lambda *_: Finding("ok", "f", ""))
    monkeypatch.setattr(
        "segmentation.doctor.system.check_shared_memory", lambda *_: Finding("ok", "shm", "")
    )
    assert main(page) == 0
    assert "16 images" in capsys.readouterr().out
    page[-1] = "--seconds=9"
    asked = []

    def fails(*arguments: object) -> Advice:
        asked.append(arguments)
        raise RuntimeError("CUDA error: no kernel image\nis available")

    monkeypatch.setattr("segmentation.doctor.speed.measure", fails)
    assert main(page) == 1
    assert "CUDA error: no kernel image is available" in capsys.readouterr().out
    page[1] = f"--data.root={tmp_path / 'gone'}"
    assert main(page) == 1
    out = capsys.readouterr().out
    assert "ERROR    data" in out and len(asked) == 1  # no speed test beside errors
    page[-1] = "--seconds=-1"
    assert "--seconds -1.0: must be at least 0" in refusal(capsys, page)
