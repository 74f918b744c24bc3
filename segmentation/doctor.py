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

import psutil
from packaging.requirements import Requirement

from segmentation.errors import UserError

GIB = 2**30
Finding = tuple[str, str, str, str]  # ok, warning (slows, or may stop) or error; name; text; remedy


def doctor(
    *, data_root: Path | None = None, run_root: Path = Path("runs"), seconds: float = 20
) -> int:
    """Examine the machine, and time a small training; the status is 1 when there are errors.

    Args:
        data_root: A data set, or a folder of data sets; ``data`` by default.
        run_root: Folder of the runs.
        seconds: Of the speed test; 0 leaves it out.
    """
    failed = False
    for status, name, text, remedy in findings(data_root, run_root):
        print(
            f"{status:8} {name:10} {text}" + f"\n{'':20}► {remedy}" * (status != "ok"), flush=True
        )
        failed |= status == "error"
    if seconds > 0 and not failed:
        print(f"\nA small U-Net on synthetic crops of 256×256, {seconds:g} seconds:")
        rates = {}
        for workers, rates[workers] in speeds(seconds):
            print(f"  {workers} loading processes: {rates[workers]:.1f} images/s", flush=True)
        print(f"\n--data.num_workers {max(rates, key=lambda n: rates[n] / (1 + n / 100))}")
    return int(failed)


def findings(data: Path | None, runs: Path) -> Iterator[Finding]:
    """All but the speed test."""
    yield check_packages()
    yield check_gpu()
    from segmentation.data.cache import cache_folder, usable_cores

    usable, workers = usable_cores(), min(8, os.cpu_count() or 1)  # as many as a data module starts
    text = f"{usable} usable of {os.cpu_count()}, {workers} loading processes by default"
    remedy = f"train with --data.num_workers {usable}"
    yield "warning" if workers > usable else "ok", "cores", text, remedy
    docker = "docker run --shm-size 8g (Kubernetes: emptyDir of medium Memory), or num_workers 0"
    room = [("memory", "", psutil.virtual_memory().available, 1.0, 4, "end other programs")]
    if Path("/dev/shm").is_dir():  # 8 loading processes have .14 GiB of batches of 256×256 ready
        room.append(("shm", "/dev/shm: ", psutil.disk_usage("/dev/shm").free, 0.14, 1, docker))
    for option, place in (("--run.root", runs), ("SEGMENTATION_CACHE", cache_folder())):
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        free = psutil.disk_usage(str(there)).free if writable else 0
        room.append(("disk", f"{place}: ", free, 1, 10, f"make space, or choose another {option}"))
    for name, text, free, least, enough, remedy in room:
        status = "error" if free < least * GIB else "warning" if free < enough * GIB else "ok"
        yield status, name, f"{text}{free / GIB:.1f} GiB can be used", remedy
    yield from check_data(data)


def check_packages() -> Finding:
    """Whether what is installed satisfies what is required."""
    found = {d.metadata["Name"].lower().replace("_", "-"): d for d in distributions()}
    ours, have = found.get("biomedical-segmentation"), {n: d.version for n, d in found.items()}
    needed = [Requirement(line) for line in (ours.requires or () if ours else ())]
    needed = [n for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})]
    wrong = [n for n in needed if not n.specifier.contains(have.get(n.name.lower(), "0"), True)]
    text = f"python {platform.python_version()}, torch {have.get('torch')}"
    if wrong:
        names = " ".join(f"'{need.name}{need.specifier}'" for need in wrong)
        return "error", "packages", f"{text}; unmet: {names}", f"pip install {names}"
    both = "opencv-python" in have  # whose files overwrite those of the headless one
    text += "; opencv-python beside its headless build" * both
    remedy = "pip uninstall opencv-python; pip install --force-reinstall opencv-python-headless"
    return "warning" if both else "ok", "packages", text, remedy


def check_gpu() -> Finding:
    """Whether PyTorch computes on the GPUs that are there, and how much of their memory is free."""
    remedy = (
        "install driver, torch and torchvision that fit each other; in a container, docker run "
    )
    remedy += "--gpus all; CUDA_VISIBLE_DEVICES must name what there is"
    try:
        import torch
        import torchvision  # type: ignore[import-untyped]  # noqa: F401  fails beside another torch

        if torch.backends.mps.is_available():
            return "ok", "gpu", "Apple's (mps)", ""
        if not torch.cuda.is_available() and shutil.which("nvidia-smi") is None:
            return "warning", "gpu", "no NVIDIA GPU: trainings run on the CPU", remedy
        torch.cuda.init()  # type: ignore[no-untyped-call]  # says what is wrong between driver and build
        text, status = f"CUDA {torch.version.cuda}", "ok"
        for index in range(torch.cuda.device_count()):
            torch.ones(8, device=f"cuda:{index}").sum().item()  # fails without code for this GPU
            free, total = (size / GIB for size in torch.cuda.mem_get_info(index))
            text += f"; {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GiB free"
            status = "warning" if free < min(2, total / 2) else status
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        return "error", "gpu", " ".join(str(error).split())[:300], remedy
    return status, "gpu", text, "nvidia-smi names the processes that fill it"


def check_data(root: Path | None) -> list[Finding]:
    """The data sets at ``root`` (``data``) or in its folders, as their readers see them."""
    from segmentation import datasets

    folder, found = root or Path("data"), list[Finding]()
    for place in (folder, *sorted(folder.glob("*/"))):
        for name in datasets.__all__:
            with suppress(UserError):
                records = getattr(datasets, name)(str(place)).index()
                masks = sum(bool(record.masks) for record in records)
                about = f"{place}: {name}, {len(records)} images, {masks} with masks"
                found.append(("ok", "data", about, ""))
                break
        if found and place == folder:
            break
    remedy = "segmentation prepare dsb2018 --root data/dsb2018, or --data.root DIR"
    none = ("error" if root else "warning", "data", f"{folder}: no data set", remedy)
    return found or [none]


def speeds(seconds: float, crop: int = 256) -> Iterator[tuple[int, float]]:
    """Images a second of a small U-Net by the number of loading processes, but for their start."""
    import torch

    from segmentation.data.cache import usable_cores
    from segmentation.data.datamodule import DataFiles, Sampling
    from segmentation.data.splits import RandomSplit
    from segmentation.datasets.dsb2018 import DSB2018DataModule
    from segmentation.datasets.synthetic import write_dsb2018
    from segmentation.models import UNet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = UNet(3, 1, 16).to(device)
    optimizer = torch.optim.AdamW(net.parameters())
    counts = [n for n in (0, 1, 2, 4, 8, 16) if n <= usable_cores()]
    with TemporaryDirectory() as folder:
        write_dsb2018(Path(folder), images=6, size=(crop, crop))
        split = RandomSplit(val=1, test=1, stratify=False)
        sampling, files = Sampling(length=20_000), DataFiles(cache=folder)
        data = DSB2018DataModule(folder, split, crop=crop, sampling=sampling, files=files)
        data.prepare_data()
        data.setup("fit")
        for data.num_workers in counts:
            images, start = -1, 0.0  # the first step sets everything up
            for batch in data.train_dataloader():
                optimizer.zero_grad()
                net(batch["image"].to(device).float() / 255).square().mean().backward()
                optimizer.step()
                next(net.parameters()).sum().item()  # waits for the device
                start = start or time.perf_counter()
                images += len(batch["image"]) if images >= 0 else 1
                if images and time.perf_counter() - start >= seconds / len(counts):
                    break
            yield data.num_workers, images / (time.perf_counter() - start)
