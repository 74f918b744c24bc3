import subprocess
import sys

import pytest

import segmentation
from segmentation.__main__ import main

HEAVY = ("torch", "lightning", "albumentations", "cv2", "wandb", "torchmetrics", "numpy")


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in ("fit", "validate", "test", "predict", "prune", "synthetic")),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys\nfrom segmentation.__main__ import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit as e:\n    assert e.code == 0\n"
        f"assert not set({HEAVY!r}) & set(sys.modules), set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == segmentation.__version__


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "'fitt'" in capsys.readouterr().err
    assert main([]) == 2
