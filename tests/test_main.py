import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor
from torch._utils import ExceptionWrapper

import segmentation
from segmentation.__main__ import main
from segmentation.errors import UserError
from segmentation.targets import Foreground
from tests.helpers import arguments, refusal

HEAVY = ("torch", "lightning", "albumentations", "cv2", "wandb", "torchmetrics", "numpy")


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        *(
            [*c.split(), "--help"]
            for c in (
                "fit",
                "validate",
                "test",
                "predict",
                "tune",
                "prune",
                "export",
                "card",
                "serve",
                "evaluate",
                "compare",
                "crossvalidate",
                "sweep run",
                "doctor",
                "prepare",
                "audit",
                "reproduce",
                "weights",
                "synthetic",
            )
        ),
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


def test_a_reader_that_has_seen_enough_causes_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "segmentation", "--help"]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == segmentation.__version__


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "'fitt'" in capsys.readouterr().err
    assert main([]) == 2


class Refusing(Foreground):
    """A target that cannot be made, as a loading process finds out."""

    def encode(self, labels: np.ndarray) -> Tensor:
        try:
            raise OSError("the cause")
        except OSError as error:
            raise UserError("x.png: bad: segmentation.errors: 1; do this") from error


# Since Python 3.12 a process with threads warns when it forks; PyTorch's loaders fork.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loading_process_is_told_in_one_line(
    workers: int, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--model.target=tests.test_main.Refusing", f"--data.num_workers={workers}"]
    line = refusal(capsys, arguments("fit", dsb_root, tmp_path, *target))
    assert line == "segmentation: error: x.png: bad: segmentation.errors: 1; do this"


class Special(UserError):
    pass


def wrapped(error: Exception) -> Exception:
    """The error that PyTorch makes of one in a loading process."""
    try:
        raise error
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")  # type: ignore[no-untyped-call]
    with pytest.raises(type(error)) as caught:
        wrapper.reraise()  # type: ignore[no-untyped-call]
    assert "Traceback" in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("a.png: b: c"), "a.png: b: c"),
        (Special("d.png: e"), "d.png: e"),
        (wrapped(Special("d.png: e")), "d.png: e"),
        (wrapped(wrapped(UserError("f: g"))), "f: g"),  # a loader in a loader
    ],
)
def test_an_error_is_told_as_its_line(
    error: UserError,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> int:
        raise error

    monkeypatch.setattr("segmentation.datasets.synthetic.synthetic", fail)
    assert main(["synthetic", "--output=x"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [f"segmentation: error: {told}"]


@pytest.mark.parametrize(("words", "status"), [(["sweep"], 2), (["sweep", "--help"], 0)])
def test_sweep_alone_names_its_commands(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    out = capsys.readouterr().out
    assert out.count("\n  sweep ") == 4 and "sweep run       Execute a sweep file" in out
