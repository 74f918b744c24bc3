import os
import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from segmentation.__main__ import main
from segmentation.config_files import configs_folder, find_config, read_parts, read_yaml
from segmentation.data.corrections import read_corrections
from segmentation.errors import UserError
from segmentation.experiments.sweep.file import read_sweep
from segmentation.training.arguments import plain_arguments
from tests.helpers import TINY

ROOT = Path(__file__).parents[1]


def test_a_config_is_found_by_path_then_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()  # a folder of that name is no config
    for name in ("folder", "folder.yaml", "configs/folder.yaml"):
        assert find_config(name) == configs_folder() / "folder.yaml"
    assert find_config("reproduce/b").is_dir()
    (tmp_path / "folder.yaml").write_text("run: {name: mine}")
    assert find_config("folder.yaml") == Path("folder.yaml")
    with pytest.raises(UserError, match=r"^folde: no such config; .* folder, "):
        find_config("folde")


def test_init_writes_one_file_that_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "dsb2018/unet_small", "--output=mine.yaml"]) == 0
    (part,) = read_parts(Path("mine.yaml"))
    assert part["run"] == {"name": "dsb2018-unet-small"} and "compose" not in part
    shown = []
    for name in ("mine.yaml", "dsb2018/unet_small"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["fit", "--config", name, "--print_config"])
        shown.append(yaml.safe_load(capsys.readouterr().out))
    assert shown[0] == shown[1]
    assert main(["init", "folder", "--output=mine.yaml"]) == 2  # kept
    assert "mine.yaml: cannot be written (File exists)" in capsys.readouterr().err
    assert yaml.safe_load(Path("mine.yaml").read_text()) == part


def test_the_wheel_trains_from_an_empty_folder(tmp_path: Path, folder_root: Path) -> None:
    """Built and unpacked, with nothing of the checkout in sight, a shipped config is found."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    subprocess.run([*build, tmp_path / "dist", ROOT], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert (tmp_path / "site" / "segmentation" / "configs" / "reproduce" / "b").is_dir()
    assert list((tmp_path / "site" / "segmentation" / "evaluation").glob("templates/*.html"))
    empty = tmp_path / "empty"
    empty.mkdir()
    argv = [sys.executable, "-P", "-m", "segmentation", "fit", "--config", "folder"]
    argv += [f"--data.root={folder_root}", "--data.mask_type=labels", "--run.root=runs", *TINY]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(argv, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(empty.glob("runs/folder/*/scores.json"))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "more than 50,000 values"),
        ("a: &a [*a]", "a part within itself"),
        ("a: &a {b: *a}", "a part within itself"),
        ("a: " + "[" * 3000, "nested more than 100 deep"),
        ("- " * 3000 + "x", "nested more than 100 deep"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "c is there twice"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: !!bool x", "'x'"),
        ("a: !!timestamp x", "NoneType"),
        ("? [a]\n: b", "unhashable key"),
        ("a: \0", "special characters"),
        ("1: 2", "the key 1 must be text"),
        ("a: \udcff", "not a text in UTF-8"),
        ("x" * (2**20 + 1), "1,048,577 bytes are too many for a text"),
    ],
)
def test_what_is_no_config_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for read in (read_yaml, read_parts, read_sweep):
        with pytest.raises(UserError, match=re.escape(f"{path}: ")) as told:
            read(path)
        assert says in str(told.value)
    with pytest.raises(UserError, match=r"x\.yaml: "):
        read_corrections(path)


def test_parts_may_be_repeated_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("\ufeffa: &a {x: 1e-4}\nb: {<<: *a, y: off}\nc: [*a, *a]")
    part = {"x": 0.0001}
    assert read_yaml(tmp_path / "x.yaml") == {"a": part, "b": {**part, "y": "off"}, "c": [part] * 2}


def test_parts_that_double_at_each_level(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i}.yaml").write_text(f"compose: [{i + 1}.yaml, {i + 1}.yaml]")
    (tmp_path / "30.yaml").write_text("{}")
    with pytest.raises(UserError, match="one of more than 200 parts of a config"):
        read_parts(tmp_path / "0.yaml")


@pytest.mark.parametrize("value", ["[" * 3000, "- " * 3000, LAUGHS, "&a [*a]"])
def test_typed_values_are_bounded_too(value: str) -> None:
    with pytest.raises(UserError, match=r"^--data\.crop .*nested|a part within itself"):
        plain_arguments([f"--data.crop={value}"])
    assert plain_arguments(["--data.glob=*.png", "--", "a*b"]) == ["--data.glob=*.png", "--", "a*b"]
