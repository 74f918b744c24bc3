"""The report on the machine, with machines that are made up."""

import re
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from segmentation import doctor
from segmentation.__main__ import main
from segmentation.doctor import check_data, check_gpu, check_packages, examined, speed_test

GIB = 2**30


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(**versions: str) -> None:
        needs = ["torch>=2.6", "numpy", 'mypy>=9; extra == "dev"', 'none; python_version < "3"']
        found = {"biomedical-segmentation": "1", "numpy": "2.4.6", **versions}
        monkeypatch.setattr(
            doctor,
            "distributions",
            lambda: [
                SimpleNamespace(metadata={"Name": name}, version=version, requires=needs)
                for name, version in found.items()
            ],
        )

    installed(torch="2.15.0+cpu")
    assert check_packages()[0] == "ok" and "torch 2.15.0+cpu" in check_packages()[2]
    installed(torch="2.5")
    status, _, text, remedy = check_packages()
    assert status == "error" and "unmet: 'torch>=2.6'" in text
    assert remedy == "pip install 'torch>=2.6'"
    monkeypatch.setattr(doctor, "distributions", lambda: list[Distribution]())
    assert check_packages()[0] == "ok"  # a checkout that is not installed


def test_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if torch.backends.mps.is_available():
        pytest.skip("Apple's")
    assert check_gpu()[:3] == ("warning", "gpu", "no NVIDIA GPU: trainings run on the CPU")

    def old_driver() -> None:
        raise RuntimeError("The NVIDIA driver on your system\nis too old")

    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setattr(torch.cuda, "init", old_driver)
    status, _, text, remedy = check_gpu()
    assert (status, text) == ("error", "The NVIDIA driver on your system is too old")
    assert "CUDA_VISIBLE_DEVICES" in remedy
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    for free, status in ((130, "ok"), (1, "warning")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, n=free: (n * GIB, 140 * GIB))
        found = check_gpu()
        assert found[0] == status and f"NVIDIA H200, {free} of 140 GiB free" in found[2]


def test_cores_memory_and_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found: dict[str, Any] = {}
    for free in (50 * GIB, 5 * GIB, GIB // 2):
        usage = SimpleNamespace(free=free, available=free)
        monkeypatch.setattr(psutil, "disk_usage", lambda _, usage=usage: usage)
        monkeypatch.setattr(psutil, "virtual_memory", lambda usage=usage: usage)
        rows = list(examined(tmp_path, tmp_path / "not" / "yet"))
        found[free] = {name: status for status, name, _, _ in reversed(rows)}
    assert [one["disk"] for one in found.values()] == ["ok", "warning", "error"]
    assert [one["memory"] for one in found.values()] == ["ok", "ok", "error"]
    blocked = [row for row in examined(tmp_path, tmp_path / "file" / "runs") if row[1] == "disk"]
    assert blocked[0][0] == "error" and "--run.root" in blocked[0][3]


def test_data(dsb_root: Path, folder_root: Path, tmp_path: Path) -> None:
    status, _, text, _ = check_data(dsb_root)
    assert status == "ok" and "DSB2018, 16 images, 12 with masks" in text
    (tmp_path / "mine").symlink_to(folder_root)
    assert "FolderDataset, 9 images, 9 with masks" in check_data(tmp_path)[2]
    status, _, text, remedy = check_data(tmp_path / "gone")
    assert status == "error" and "segmentation prepare" in remedy


# Since Python 3.12 a process with threads warns when it forks; PyTorch's loaders fork.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_report(dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"--data.root={dsb_root}", f"--run.root={tmp_path}", "--seconds=0"]) == 0
    lines = list(speed_test(1, crop=32))
    assert re.search(r"data.batch_size 8: [\d.]+ images/s", "\n".join(lines))
    advice = (
        r"► --data.num_workers \d+ --data.batch_size \d+ --trainer.precision (32-true|bf16-mixed)"
    )
    assert re.fullmatch(advice, lines[-1])
    assert main(["doctor", f"--data.root={tmp_path / 'gone'}", f"--run.root={tmp_path}"]) == 1
    out = capsys.readouterr().out
    assert "error    data" in out and "images/s" not in out  # no speed test beside errors
