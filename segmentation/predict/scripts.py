"""Scripts for QuPath and Fiji, which call ``segmentation predict`` and take its objects."""

import re
from pathlib import Path

from segmentation.errors import UserError
from segmentation.evaluation.pages import render
from segmentation.io.files import write_bytes

SCRIPTS = ("qupath.groovy", "fiji.ijm")


def write_scripts(folder: Path, model: str) -> list[Path]:
    """Write the scripts beside a network, whose file in the folder is called ``model``.

    A name that scripts cannot quote, or a file that cannot be written, is a :class:`UserError`.
    """
    if not re.fullmatch(r"[\w.() +-]+", model):
        raise UserError(f"{model}: scripts cannot name it; use letters, digits, - and _")
    paths = [folder / name for name in SCRIPTS]
    for path in paths:
        write_bytes(path, render(path.name, model=model).encode())
    return paths
