"""GPU, driver, CUDA and PyTorch: whether they match."""

import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segmentation.doctor.finding import GIB, Finding
from segmentation.training.messages import one_line, shortened


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that PyTorch can reach: its compute capability, free and total memory in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Torch:
    """What PyTorch was built for and sees: the CUDA of its build, that build's architectures."""

    cuda: str | None
    archs: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False


def check_gpus(smi: str | None, torch: Torch, environ: Mapping[str, str]) -> list[Finding]:
    """Whether driver, CUDA and PyTorch match, and how much memory is free.

    Args:
        smi: What ``nvidia-smi`` printed; ``None`` where there is no such program.
        torch: What PyTorch says.
        environ: Environment variables.
    """
    driver = re.search(r"Driver Version:\s*([\d.]+)", smi or "")
    cuda = re.search(r"CUDA (?:\w+ )?Version:\s*([\d.]+)", smi or "")
    if torch.gpus:
        about = f"driver {driver[1] if driver else 'unknown'}, PyTorch's CUDA {torch.cuda}"
        return [_check_gpu(gpu, torch.archs, about) for gpu in torch.gpus]
    if torch.mps:
        return [Finding("ok", "gpu", "Apple's (mps)")]
    if smi is None:
        remedy = "if there is one: install its driver; in a container, docker run --gpus all"
        return [Finding("warning", "gpu", "no NVIDIA GPU: trainings run on the CPU", remedy)]
    if driver is None:
        said = (smi.strip().splitlines() or ["nothing"])[0]
        remedy = "restart the machine, or install the driver anew"
        return [Finding("error", "gpu", f"nvidia-smi says: {said}", remedy)]
    text = f"driver {driver[1]} for CUDA {cuda[1] if cuda else 'unknown'}, but PyTorch "
    if torch.cuda is None:
        remedy = "pip install --force-reinstall torch torchvision, from PyPI"
        return [Finding("error", "gpu", f"{text}is a build without CUDA", remedy)]
    if cuda and int(cuda[1].split(".")[0]) < int(torch.cuda.split(".")[0]):
        remedy = f"update the driver, or install a PyTorch for CUDA {cuda[1].split('.')[0]}"
        return [Finding("error", "gpu", f"{text}is built for CUDA {torch.cuda}", remedy)]
    if "CUDA_VISIBLE_DEVICES" in environ:
        value = environ["CUDA_VISIBLE_DEVICES"]
        text += f"sees no GPU: CUDA_VISIBLE_DEVICES is {value!r}"
        return [Finding("error", "gpu", text, "unset CUDA_VISIBLE_DEVICES, or correct it")]
    remedy = "restart the machine; in a container, docker run --gpus all"
    return [Finding("error", "gpu", f"{text}sees no GPU", remedy)]


def _check_gpu(gpu: Gpu, archs: Sequence[str], about: str) -> Finding:
    major, minor = gpu.capability
    text = f"{gpu.name}, {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free, {about}"
    if not supported(gpu.capability, archs):
        unfit = f"{text}; PyTorch has no code for its sm_{major}{minor}"
        remedy = "install a PyTorch whose release notes name this architecture"
        return Finding("error", "gpu", unfit, remedy)
    if gpu.free < min(2 * GIB, gpu.total / 2):
        return Finding("warning", "gpu", text, "nvidia-smi names the processes that fill it")
    return Finding("ok", "gpu", text)


def supported(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Whether code for ``archs`` (``sm_90``, ``compute_90``) runs at a compute capability.

    Binaries run on later GPUs of the same generation, PTX on all later ones (CUDA C++ Programming
    Guide, "Application Compatibility"); a suffix means this architecture alone.
    """
    for arch in archs:
        if found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch):
            code = int(found[2]), int(found[3])
            if found[4]:
                fits = code == capability
            else:
                fits = code <= capability and (found[1] == "compute" or code[0] == capability[0])
            if fits:
                return True
    return False


def nvidia_smi() -> str | None:
    """What ``nvidia-smi`` prints, errors too."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def read_torch() -> Torch | Finding:
    """PyTorch's view of the GPUs, or why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an old driver: said in our words
            import torch
            import torchvision  # type: ignore[import-untyped]  # noqa: F401  fails beside another release's torch

            gpus = []
            for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                about = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)
                gpus.append(Gpu(*about, *torch.cuda.mem_get_info(i)))
            archs = tuple(torch.cuda.get_arch_list()) if gpus else ()
            return Torch(torch.version.cuda, archs, tuple(gpus), torch.backends.mps.is_available())
    except (ImportError, OSError, RuntimeError) as error:
        remedy = "pip install --force-reinstall torch torchvision: a pair of one release"
        return Finding("error", "torch", shortened(one_line(str(error))), remedy)
