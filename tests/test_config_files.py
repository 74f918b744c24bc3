import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from segmentation.__main__ import main
from segmentation.config_files import configs_folder, find_config, read_parts
from segmentation.errors import UserError
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
