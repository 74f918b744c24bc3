"""Python and the packages."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from segmentation.doctor.finding import Finding

SHOWN = ("torch", "torchvision", "lightning", "albumentations", "numpy", "wandb")


def check_python(version: tuple[int, int]) -> Finding:
    """Whether Python is new enough: (3, 11) or above."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("error", "python", text, "install Python 3.11 or newer")
    return Finding("ok", "python", text)


def check_packages(wanted: Sequence[str], installed: Mapping[str, str]) -> Finding:
    """Whether what is installed satisfies what is required.

    Args:
        wanted: Requirements, such as ``torch>=2.6``.
        installed: Version by canonical name.
    """
    text = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)
    wrong = []
    for line in wanted:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            have = installed.get(canonicalize_name(need.name))
            if have is None or not need.specifier.contains(have, prereleases=True):
                wrong.append(f"{need.name}{need.specifier}")
    if wrong:
        unmet = f"{text}; unmet: {', '.join(wrong)}"
        return Finding("error", "packages", unmet, f"pip install {' '.join(map(repr, wrong))}")
    if "opencv-python" in installed:
        remedy = "pip uninstall opencv-python; pip install --force-reinstall opencv-python-headless"
        both = f"{text}; opencv-python overwrites files of opencv-python-headless"
        return Finding("warning", "packages", both, remedy)
    return Finding("ok", "packages", text)


def packages() -> tuple[list[str], dict[str, str]]:
    """The requirements of this package and torchvision's, and what is installed."""
    wanted = []
    for name in ("biomedical-segmentation", "torchvision"):
        with suppress(PackageNotFoundError):
            wanted += requires(name) or []
    return wanted, {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
