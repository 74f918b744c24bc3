import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segmentation.commands import call, first_line
from segmentation.errors import UserError

SOURCE = '''
from pathlib import Path
from typing import Literal

Kind = Literal["a", "b"]
NEAR = 0.4


def mask(
    kind: Kind, /, *options: str, data_images: Path, out: Path = Path("runs"),
    labels: Literal["tiff", "png"] | None = None, score: list[str] = [], near: float = NEAR,
    tta: bool = False, most: int | None = None,
) -> int:
    """Masks for a folder.

    Args:
        kind: Which.
        data_images: Folder
            of images.
    """
    global seen
    seen = locals()
    return 1


def join(runs: list[str], /, score: list[str] = [], most_of: int = 1) -> None:
    """Join runs."""
    global seen
    seen = locals()


def train(*options: str) -> None:
    """Train on everything."""
    global seen
    seen = locals()
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "tried.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tried", raising=False)
    yield lambda: sys.modules["tried"]
    sys.modules.pop("tried", None)


def test_options_become_arguments(module: Any) -> None:
    words = "a --data.images d --labels --score u v --model.x 4 --near -3 --score w --tta"
    assert call("mask", "tried:mask", words.split()) == 1
    found: ModuleType = module()
    assert found.seen == {
        "kind": "a", "options": ("--model.x", "4"), "data_images": Path("d"), "out": Path("runs"),
        "labels": "tiff", "score": ["u", "v", "w"], "near": -3.0, "tta": True, "most": None,
    }  # fmt: skip
    words = "b --data.images=d --labels=png --most 4 -- --model.y=2"
    call("mask", "tried:mask", words.split())
    assert (found.seen["labels"], found.seen["most"]) == ("png", 4)
    assert (found.seen["options"], found.seen["score"]) == (("--model.y=2",), [])
    assert call("join", "tried:join", ["r", "s", "--score=x"]) == 0
    assert found.seen == {"runs": ["r", "s"], "score": ["x"], "most_of": 1}
    call("join", "tried:join", ["r", "--most-of=3"])  # as other tools spell it
    assert found.seen["most_of"] == 3
    call("train", "tried:train", ["--help-all", "--a.b=1"])
    assert found.seen == {"options": ("--help-all", "--a.b=1")}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("mask c --data.images d", "kind c: must be one of a, b"),
        ("mask a --data.images d --near x", "--near x: must be a number"),
        ("mask a --data.images d --most=x", "--most x: must be a whole number"),
        ("mask a --data.images d --labels x", "--labels x: must be one of tiff, png"),
        ("mask a", "the following arguments are required: data.images"),
        ("join r --scor x", "no option is called --scor (did you mean --score?)"),
        ("join --score x", "the following arguments are required: runs"),
    ],
)
def test_a_wrong_option_is_one_line(module: Any, words: str, line: str) -> None:
    name, *rest = words.split()
    with pytest.raises(UserError) as caught:
        call(name, f"tried:{name}", rest)
    assert str(caught.value) == f"{line}; see segmentation {name} --help"
    assert "tried" not in sys.modules  # nothing was imported for it


def test_help_comes_from_the_docstring(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_line("tried:mask") == "Masks for a folder."
    assert call("mask", "tried:mask", ["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Masks for a folder." in shown and "Folder of images." in shown
    assert call("train", "tried:train", ["-h"]) == 0
    assert "Train on everything." in capsys.readouterr().out
    assert "tried" not in sys.modules
