"""The container's files, as far as they can be checked without an engine."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from segmentation.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
WORKFLOWS = sorted((ROOT / ".github").glob("*/**/*.yml"))


class _Loader(yaml.SafeLoader):
    """Compose's own tag too."""


_Loader.add_constructor("!reset", lambda loader, node: "reset")


def compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "docker" / name).read_text(), _Loader)
    return loaded


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, comments gone and lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", "")
    return [(w, rest) for w, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_what_is_copied_is_in_the_context() -> None:
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert "segmentation" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == k or source.startswith(f"{k}/") for k in kept), source


def test_dependencies_come_before_the_source() -> None:
    steps = [f"{word} {rest}" for word, rest in instructions()]
    installed = next(i for i, s in enumerate(steps) if s.endswith("pip install ."))
    assert steps.index("COPY segmentation segmentation") > installed
    assert any("torch==" in s for s in steps[:installed])


def test_the_image_runs_as_a_number_under_tini() -> None:
    last = {word: rest for word, rest in instructions()}  # the final stage's win
    assert last["USER"].isdecimal() and last["USER"] != "0"
    assert last["ENTRYPOINT"] == '["tini", "-s", "--", "entrypoint"]'


def test_the_pair_of_torch_and_torchvision_is_pinned() -> None:
    pins = dict(re.findall(r"^ARG (TORCH\w*)=([\d.]+)$", DOCKERFILE, re.MULTILINE))
    assert set(pins) == {"TORCH", "TORCHVISION"}
    assert not pins["TORCH"].startswith("2.13")


def run_entrypoint(tmp_path: Path, kib: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the script where ``df`` says ``kib`` and every program says its name and arguments."""
    for name in ("segmentation", "wandb", "bash", "python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
    (tmp_path / "df").write_text(f"#!/bin/sh\necho head\necho tmpfs {kib} 0 {kib} 0% /dev/shm\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", str(ENTRYPOINT), *argv], env=environ, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "segmentation"),
        (["fit", "--config", "a b.yaml"], "segmentation fit --config a b.yaml"),
        (["test"], "segmentation test"),  # not the shell's
        (["--help"], "segmentation --help"),
        (["wandb", "agent", "x"], "wandb agent x"),
        (["bash", "configs/cluster/agent.sh"], "bash configs/cluster/agent.sh"),
    ],
)
def test_what_the_entrypoint_becomes(argv: list[str], said: str, tmp_path: Path) -> None:
    done = run_entrypoint(tmp_path, "8388608", *argv)
    assert done.stdout == f"{said}\n" and done.stderr == ""


def test_small_shared_memory_is_told(tmp_path: Path) -> None:
    done = run_entrypoint(tmp_path, "65536", "fit")
    assert "64 MiB" in done.stderr and "--shm-size 8g" in done.stderr
    assert done.stdout == "segmentation fit\n"
    assert "0 MiB" in run_entrypoint(tmp_path, "", "fit").stderr


def test_no_command_is_taken_for_a_program() -> None:
    (programs,) = re.findall(r"^ +(.+)\) exec \"\$@\"", ENTRYPOINT.read_text(), re.MULTILINE)
    assert not set(programs.split(" | ")) & {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("service", ["train", "agent", "predict"])
def test_services(service: str) -> None:
    found = compose("compose.yaml")["services"][service]
    assert found["shm_size"] == "8gb" and found["stop_grace_period"] == "3m"
    assert found["build"]["dockerfile"] == "docker/Dockerfile"
    (gpu,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["capabilities"] == ["gpu"]
    without = compose("compose.cpu.yaml")["services"][service]
    assert without["deploy"] == "reset" and without["image"] != found["image"]
    places = {v.split(":")[1] for v in found["volumes"]}
    made = next(rest for word, rest in instructions() if "install -d" in rest)
    for name in ("data", "runs", "cache", "weights"):
        assert f"/app/{name}" in places and f"/app/{name}" in made
    for path in re.findall(r"configs/\S+\.(?:yaml|sh)", str(found)):
        assert (ROOT / path.split(":-")[-1].rstrip("},']")).exists(), path


def steps(path: Path) -> list[dict[str, Any]]:
    loaded = yaml.safe_load(path.read_text())
    jobs = loaded["jobs"].values() if "jobs" in loaded else [loaded["runs"]]
    return [step for job in jobs for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert {"ci.yml", "docker.yml", "action.yml"} <= {path.name for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    for action in used:
        pinned = re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action)
        local = action.startswith("./") and (ROOT / action / "action.yml").exists()
        assert pinned or local, action
        if pinned:  # and the comment says which release it is
            assert re.search(rf"{action} # v\d+\.\d+\.\d+$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_text_of_others_becomes_a_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step


def test_only_publishing_may_write() -> None:
    for name in ("ci.yml", "docker.yml"):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
        assert "write" not in str(workflow["permissions"])
        for job, content in workflow["jobs"].items():
            may = {k for k, v in content.get("permissions", {}).items() if v == "write"}
            assert may == ({"packages"} if job == "publish" else set())
            assert content["timeout-minutes"] <= 120


def test_the_tag_must_be_the_version(tmp_path: Path) -> None:
    path = ROOT / ".github" / "workflows" / "docker.yml"
    (script,) = (s["run"] for s in steps(path) if "version" in s.get("name", ""))
    (tmp_path / "segmentation").mkdir()
    (tmp_path / "segmentation" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    for tag, status in (("v1.2.3", 0), ("v1.2.4", 1), ("1.2.3", 1)):
        environ = {**os.environ, "GITHUB_REF_NAME": tag}
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert done.returncode == status, (tag, done.stderr)
