"""A signal where nothing can be saved: exit status 143."""

import os
import signal
import subprocess
import sys
import time

import pytest

from segmentation.training.signals import SIGNALS, STATUS, leaving
from tests.helpers import CONFIGS


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_with_143(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, leaving():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert left.value.code == STATUS
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_ends_with_143(number: int) -> None:
    """They take seconds, in which a scheduler may change its mind."""
    code = """
import os, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getpid(), int(sys.argv.pop()))

sys.meta_path.insert(0, Finder())
from segmentation.__main__ import main
sys.exit(main(["fit", "--config", "configs/quickstart.yaml"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(number))],
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == STATUS, done.stderr
    assert not done.stderr
