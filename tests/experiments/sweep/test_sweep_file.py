import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from segmentation.__main__ import main
from segmentation.errors import UserError
from segmentation.experiments.sweep.file import ARGS, read_sweep
from tests.experiments.sweep.common import ROOT, sweep_file
from tests.helpers import refusal

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
CLUSTER = ROOT / "configs" / "cluster" / "multinode.yaml"


def test_the_grid_of_system_d_has_exactly_its_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "configs" / "sweeps" / "pbs_grid.yaml"
    assert main(["sweep", "count", str(path)]) == 0
    assert capsys.readouterr().out == "8192 runs\n"
    tiles = {1: "512x640", 8: "64x80", 16: "32x40", 32: "16x20"}
    models = ("SimpleConv", "SmallUNet", "SmallUNetLess", "FamilyUNet")
    expected = {
        (opt, lr, dropout, batch, images // 11, f"configs/reproduce/d/tiles_{tiles[n]}.yaml", b, m)
        for opt, lr, dropout, batch, images, n, b, m in itertools.product(
            ("torch.optim.Adam", "torch.optim.SGD"),
            (0.01, 0.001, 0.0001, 0.00005),
            (0.3, 0.5),
            (11, 22, 44, 121),
            (11, 22, 44, 121),
            tiles,
            ("keep", "add"),
            (f"segmentation.models.{m}" for m in models),
        )
    }
    assert len(expected) == 8192
    order = (
        "model.optimizer", "model.optimizer.lr", "model.net.net.dropout", "data.batch_size",
        "data.copies", "config", "data.blank", "model.net.net",
    )  # fmt: skip
    sweep = read_sweep(path)
    found = [sweep.combination(number) for number in range(8192)]
    assert {tuple(one[name] for name in order) for one in found} == expected
    assert all(len(one) == len(order) for one in found)


@pytest.mark.parametrize("path", [*SWEEPS, CLUSTER], ids=lambda path: path.stem)
def test_shipped_sweeps_start_fit(path: Path) -> None:
    sweep = read_sweep(path)
    fit = sweep.command.index("fit")
    assert sweep.command[fit - 2 : fit] == ["-m", "segmentation"]
    assert sweep.command[-1] == "${args}"
    for word in sweep.command:
        assert not word.endswith(".yaml") or (ROOT / word).is_file()
    assert sweep.method == "grid" or (sweep.run_cap and sweep.early_terminate)


def test_there_is_a_sweep_for_each_dataset() -> None:
    names = {path.stem for path in SWEEPS}
    assert names >= {"dsb2018", "bbbc039", "dic_hela", "ultrasound_nerve", "folder", "pbs_grid"}


@pytest.mark.parametrize("macro", ARGS[:-2])
def test_macros_expand_as_wandbs_agent_does_it(macro: str, tmp_path: Path) -> None:
    values = {"a": 1, "b": None, "c": True, "d": False, "e": [1, "x"], "f.g": 5e-05, "h": "two w"}
    command = ["${env}", "${interpreter}", "${program}", "x-${envvar:HOME}-y", f"${{{macro}}}"]
    path = sweep_file(tmp_path, command=command, program="p.py")
    theirs = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    theirs["args_json_file"] = [str(tmp_path / "args.json")]
    expected = ["/usr/bin/env", sys.executable, "p.py", create_sweep_command(command[:])[3]]
    found = read_sweep(path).command_line(values, tmp_path / "args.json")
    assert found == [*expected, *theirs[macro]]
    if macro == "args_json_file":
        assert json.loads((tmp_path / "args.json").read_text()) == values


def test_last_parameter_runs_fastest_and_the_cap_holds(tmp_path: Path) -> None:
    sweep = read_sweep(
        sweep_file(tmp_path, parameters={"b": {"values": [1, 2]}, "a": {"min": 1, "max": 3}})
    )
    found = [tuple(sweep.combination(n).items()) for n in range(6)]
    assert found[:3] == [(("a", 1), ("b", 1)), (("a", 1), ("b", 2)), (("a", 2), ("b", 1))]
    assert sweep.count == len(set(found)) == 6
    assert read_sweep(sweep_file(tmp_path, run_cap=3)).count == 3
    assert read_sweep(sweep_file(tmp_path, method="random")).count is None


@pytest.mark.parametrize(
    ("early", "first"),
    [({"min_iter": 3}, 3), ({"max_iter": 27, "s": 2}, 3), ({"max_iter": 27, "s": 9}, 1)],
    ids=str,
)
def test_first_band(early: dict[str, Any], first: int, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, early_terminate={"type": "hyperband", **early})
    hyperband = read_sweep(path).early_terminate
    assert hyperband is not None and hyperband.first == first


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"method": "sobol"}, "method: Input should be 'grid'"),
        ({"parameters": {}}, "nothing to search"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x: values is empty"),
        ({"parameters": {"x": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "a grid has no uniform"),
        ({"metric": None}, "metric: Input should be"),
        ({"metric": {"name": "a", "impute": "worst"}}, "metric.impute: cannot be executed here"),
        ({"metric": {"name": "a", "goal": "max"}}, "metric.goal: Input should be 'minimize' or"),
        (
            {"early_terminate": {"type": "median"}},
            "early_terminate.type: Input should be 'hyperband'",
        ),
        ({"early_terminate": {"type": "hyperband"}}, "needs min_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}},
            "eta: Input should be greater than",
        ),
        ({"scheduler": {"engine": "ax"}}, "scheduler: cannot be executed here"),
        ({"paramters": {}}, "did you mean parameters?"),
        ({"run_cap": 0}, "run_cap"),
        ({"command": ["a", "${arg}"]}, "${arg} is none of W&B's macros"),
        ({"command": ["a"]}, "${args} is missing"),
        ({"command": ["${program}", "${args}"]}, "program: is missing"),
    ],
    ids=str,
)
def test_refused(
    more: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file(tmp_path, **more)
    found = refusal(capsys, ["sweep", "count", str(path)])
    assert str(path) in found
    assert line in found


def test_unset_variable(tmp_path: Path) -> None:
    sweep = read_sweep(sweep_file(tmp_path, command=["${envvar:NOT_SET_AT_ALL}", "${args}"]))
    with pytest.raises(UserError, match="NOT_SET_AT_ALL is not set"):
        sweep.command_line({"x": 1}, tmp_path / "x.json")


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name, line in (
        ("list", "be a mapping"),
        ("broken", "not valid YAML"),
        ("no", "no such config"),
    ):
        path = str(tmp_path / f"{name}.yaml")
        assert line in refusal(capsys, ["sweep", "count", path])
