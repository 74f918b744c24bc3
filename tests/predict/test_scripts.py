"""Scripts for programs that are not here: what they say, as far as it can be checked."""

import re
from pathlib import Path

import pytest

from segmentation.__main__ import COMMANDS
from segmentation.commands import help_text
from segmentation.errors import UserError
from segmentation.predict.scripts import SCRIPTS, write_scripts


def test_scripts_call_a_command_that_exists(tmp_path: Path) -> None:
    paths = write_scripts(tmp_path / "given", "model.onnx")
    assert [path.name for path in paths] == [*SCRIPTS]
    known = help_text("predict", COMMANDS["predict"])
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "model.onnx" in text and "{{" not in text
        options = re.findall(r"""['"](--[\w.]+)['"]""", text)
        assert len(options) == 4 and all(option in known for option in options)
        code = re.sub(r"//.*|/\*.*?\*/|'[^'\n]*'|\"[^\"\n]*\"", "", text, flags=re.DOTALL)
        for left, right in ("()", "{}", "[]"):
            assert code.count(left) == code.count(right)


def test_a_name_that_a_script_cannot_quote(tmp_path: Path) -> None:
    for name in ("a'b.ckpt", 'a"b.ckpt', "a\\b.ckpt", "a$b.ckpt", "a\nb.ckpt"):
        with pytest.raises(UserError, match="scripts cannot name it"):
            write_scripts(tmp_path, name)
    assert not any(tmp_path.iterdir())
