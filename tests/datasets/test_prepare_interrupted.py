"""Whenever `prepare` is stopped, no reader takes what is left for the dataset."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segmentation.__main__ import main
from segmentation.datasets import prepare as module
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.prepare import prepare
from segmentation.errors import UserError
from tests.datasets.test_prepare import FILES, visible, whole


def interrupted(function: Callable[..., object], after: int) -> Callable[..., object]:
    """The function, which raises at the call of that number."""
    calls = [0]

    def call(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] > after:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("step", ["stage", "shutil.copyfile", "sha256_of", "decoded"])
@pytest.mark.parametrize("after", [0, 1])
def test_ctrl_c(
    dsb_files: list[Path],
    tmp_path: Path,
    step: str,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, _, name = f"segmentation.datasets.prepare.{step}".rpartition(".")
    if owner.endswith("shutil"):
        owner = "shutil"
    function = getattr(module.shutil if owner == "shutil" else module, name)
    monkeypatch.setattr(f"{owner}.{name}", interrupted(function, after))
    arguments = ["prepare", "dsb2018", "--root", str(tmp_path), "--archive", *map(str, dsb_files)]
    status = main(arguments)
    assert status == (130 if (step, after) not in (("shutil.copyfile", 1), ("decoded", 1)) else 0)
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))
    done = status == 0 or step == "decoded"
    assert visible(tmp_path) == ({"stage1_train", "stage1_test", FILES[0]} if done else set())
    monkeypatch.undo()
    assert main(arguments) == 0 and whole(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from segmentation.datasets import prepare

roots, archives = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
prepare.Official.open = lambda *_: sys.exit()  # by then the folders are there
sys.stdout = open(os.devnull, "w")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")

def run(number):
    '''Kill a process before its nth change to the disk; return whether it came to that.'''
    count = 0
    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        prepare.prepare("dsb2018", roots / f"{number:03}", archives)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

try:  # once in peace: what is imported late is imported once
    prepare.prepare("dsb2018", roots / "000", archives)
except SystemExit:
    number = 1
while run(number):
    number += 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills(dsb_files: list[Path], tmp_path: Path) -> None:
    """Killed at any moment it leaves no training data, or all; then it can be run again."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), *map(str, dsb_files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *roots, last = sorted(tmp_path.iterdir())
    assert whole(first) and whole(last) and len(roots) > 50
    leftovers = 0
    for root in roots:
        leftovers += any(root.glob(".*.part"))
        subsets: set[str] = set()
        with contextlib.suppress(UserError):
            subsets = {record.subset for record in DSB2018(str(root)).index()}
        assert "train" not in subsets or whole(root)
    assert leftovers > 40  # or nothing was interrupted
    for root in roots[::10]:
        prepare("dsb2018", root, dsb_files)
        assert whole(root) and not list(root.glob(".*.part"))
