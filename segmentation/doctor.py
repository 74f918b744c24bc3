"""``segmentation doctor``: what of this machine would stop a training or slow it down."""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from packaging.requirements import Requirement

from segmentation.errors import UserError, gist_of

GIB = 2**30
GPU = (
    "install driver, torch and torchvision that fit each other; in a container, docker run --gpus "
    "all; CUDA_VISIBLE_DEVICES must name what there is"
)
Finding = tuple[str, str, str, str]  # ok, warning (slows, or may stop) or error; name; text; remedy


def doctor(
    *, data_root: Path | None = None, run_root: Path = Path("runs"), seconds: float = 20
) -> int:
    """Examine the machine, and time a small training; the status is 1 when there are errors.

    Args:
        data_root: A data set, or a folder of data sets; ``data`` by default.
        run_root: Folder of the runs.
        seconds: Of the speed test, about; 0 leaves it out.
    """
    failed = False
    for status, name, text, remedy in examined(data_root, run_root):
        failed |= status == "error"
        more = f"\n{'':20}► {remedy}" * (status != "ok")
        print(f"{status:8} {name:10} {text}{more}", flush=True)
    for line in speed_test(seconds) if seconds > 0 and not failed else ():
        print(line, flush=True)
    return int(failed)


def examined(data: Path | None, runs: Path) -> Iterator[Finding]:
    """All but the speed test."""
    yield check_packages()
    yield check_gpu()
    from segmentation.data.cache import cache_folder

    free, docker = psutil.virtual_memory().available, "docker run --shm-size 8g, or num_workers 0"
    yield _room("memory", "", free, 1, 4, "end other programs")
    if Path("/dev/shm").is_dir():  # 8 loading processes have .14 GiB of batches of 256×256 ready
        yield _room("shm", "/dev/shm: ", psutil.disk_usage("/dev/shm").free, 0.14, 1, docker)
    for option, place in (("--run.root", runs), ("SEGMENTATION_CACHE", cache_folder())):
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        free = psutil.disk_usage(str(there)).free if writable else 0
        yield _room("disk", f"{place}: ", free, 1, 10, f"make space, or choose another {option}")
    yield check_data(data)


def _room(name: str, place: str, free: int, least: float, enough: float, remedy: str) -> Finding:
    status = "error" if free < least * GIB else "warning" if free < enough * GIB else "ok"
    return status, name, f"{place}{free / GIB:.1f} GiB can be used", remedy


def check_packages() -> Finding:
    """Whether what is installed satisfies what is required."""
    found = {d.metadata["Name"].lower().replace("_", "-"): d for d in distributions()}
    ours, have = found.get("biomedical-segmentation"), {n: d.version for n, d in found.items()}
    needed = [Requirement(line) for line in (ours.requires or () if ours else ())]
    needed = [n for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})]
    wrong = [n for n in needed if not n.specifier.contains(have.get(n.name.lower(), "0"), True)]
    names = " ".join(f"'{need.name}{need.specifier}'" for need in wrong)
    text = f"python {platform.python_version()}, torch {have.get('torch')}"
    text += f"; unmet: {names}" * bool(wrong)
    return "error" if wrong else "ok", "packages", text, f"pip install {names}"


def check_gpu() -> Finding:
    """Whether PyTorch computes on the GPUs that are there, and how much of their memory is free."""
    try:
        import torch
        import torchvision  # type: ignore[import-untyped]  # noqa: F401  fails beside another torch

        if torch.backends.mps.is_available():
            return "ok", "gpu", "Apple's (mps)", ""
        if not (torch.cuda.is_available() or shutil.which("nvidia-smi")):
            return "warning", "gpu", "no NVIDIA GPU: trainings run on the CPU", GPU
        torch.cuda.init()  # type: ignore[no-untyped-call]  # says what is wrong between driver and build
        text, status = f"CUDA {torch.version.cuda}", "ok"
        for index in range(torch.cuda.device_count()):
            torch.ones(8, device=f"cuda:{index}").sum().item()  # fails without code for this GPU
            free, total = (size / GIB for size in torch.cuda.mem_get_info(index))
            text += f"; {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GiB free"
            status = "warning" if free < min(2, total / 2) else status
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        return "error", "gpu", gist_of(error, 300), GPU
    return status, "gpu", text, "nvidia-smi names the processes that fill it"


def check_data(root: Path | None) -> Finding:
    """The data sets at ``root`` (``data``) or in its folders, as their readers see them."""
    from segmentation import datasets

    folder, found = root or Path("data"), dict[Path, str]()
    for place in (folder, *sorted(folder.glob("*/"))):
        for name in datasets.__all__ if folder not in found else ():
            with suppress(UserError):
                masks = [bool(r.masks) for r in getattr(datasets, name)(str(place)).index()]
                found.setdefault(place, f"{name}, {len(masks)} images, {sum(masks)} with masks")
    text = "; ".join(f"{place}: {what}" for place, what in found.items())
    remedy = "segmentation prepare dsb2018 --root data/dsb2018, or --data.root DIR"
    status = "ok" if found else "error" if root else "warning"
    return status, "data", text or f"{folder}: no data set", remedy


def speed_test(seconds: float, crop: int = 256) -> Iterator[str]:
    """A small U-Net by loading processes, batch size and precision; the best of each comes last."""
    import torch

    from segmentation.data.cache import usable_cores
    from segmentation.data.datamodule import DataFiles
    from segmentation.data.samplers import Sampling
    from segmentation.datasets.folder import FolderDataModule
    from segmentation.datasets.synthetic import write_folder
    from segmentation.models import UNet

    device, halves = "mps" if torch.backends.mps.is_available() else "cpu", dict[str, torch.dtype]()
    if torch.cuda.is_available():
        # What a GPU has no instructions for is emulated, and a hundred times as slow.
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        device, halves = "cuda", {"bf16-mixed": torch.bfloat16} if real else {}
    net = UNet(3, 1, 16).to(device)
    optimizer = torch.optim.AdamW(net.parameters())
    options: dict[str, list[Any]] = {
        "data.num_workers": [n for n in (0, 1, 2, 4, 8, 16) if n <= usable_cores()],
        "data.batch_size": [4, 8, 16] + [32, 64] * (device == "cuda"),
        "trainer.precision": ["32-true", *halves],
    }
    best: dict[str, Any] = {name: values[0] for name, values in options.items()}
    yield f"\nA small U-Net on synthetic crops of {crop}×{crop}:"
    with TemporaryDirectory() as folder:
        write_folder(Path(folder), size=(crop, crop))
        sampling, files = Sampling(length=20_000), DataFiles(cache=folder)
        data = FolderDataModule(folder, crop=crop, sampling=sampling, files=files)
        data.prepare_data()
        data.setup("fit")
        for name, values in options.items():
            rates = dict[Any, float]()
            for value in values:
                data.num_workers, data.batch_size, precision = (best | {name: value}).values()
                times = list[float]()
                for batch in data.train_dataloader():
                    with torch.autocast(device, halves.get(precision), precision in halves):
                        net(batch["image"].to(device).float() / 255).square().mean().backward()
                    optimizer.step()
                    next(net.parameters()).sum().item()  # waits for the device
                    times.append(time.perf_counter())  # of which the first one sets everything up
                    if len(times) > 1 and times[-1] - times[0] >= seconds / 10:
                        break
                rates[value] = data.batch_size * (len(times) - 1) / (times[-1] - times[0])
                yield f"  {name} {value}: {rates[value]:.1f} images/s"
            # The first, where others are hardly faster.
            best[name] = next(v for v in values if rates[v] >= 0.95 * max(rates.values()))
    yield "► " + " ".join(f"--{name} {value}" for name, value in best.items())
