from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from segmentation.experiments.sweep.check import refused
from segmentation.training.arguments import composed, plain_arguments


def test_pythons_words_become_json() -> None:
    words = ["--a=None", "--b=[1, None, 'x']", "--c={'k': True}", "--d=(1, 2)", "--e", "None"]
    assert plain_arguments(words) == [
        "--a=null", '--b=[1, null, "x"]', '--c={"k": true}', "--d=[1, 2]", "--e", "null",
    ]  # fmt: skip


def test_the_rest_stays() -> None:
    words = ["--config", "x.yaml", "--a={width: 8}", "--b=5e-05", "--c=True", "--d", "[1,1]"]
    words += ["--run.name=None and all", "--e=[", "--flag"]
    assert plain_arguments(words)[:5] == words[:5]
    assert plain_arguments(words)[6:] == ["[1, 1]", *words[7:]]


@pytest.mark.parametrize(
    "own", [["--_wandb={'a': 1}"], ["--_wandb", "{'a': 1}"], ["--_wandb.requeued=1"]]
)
def test_what_wandb_adds_is_dropped(own: list[str]) -> None:
    assert plain_arguments(["--a=1", *own, "--b=2"]) == ["--a=1", "--b=2"]
    assert composed(["fit", *own, "--b=2"]) == ["fit", "--b=2"]


def test_fit_takes_what_wandbs_agent_types() -> None:
    """The real parser, on the real agent's spelling of Python's values."""
    values = {
        "data.crop": None,
        "data.copies_in_val": True,
        "data.weight": None,
        "model.optimizer": "torch.optim.SGD",
        "model.optimizer.lr": 0.00005,
        "model.preprocess.mean": [0.5],
        "_wandb": {"requeued": True},
    }
    typed = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    assert "--data.crop=None" in typed["args"]
    base = ["--config", "configs/reproduce/d/_base.yaml"]
    for macro in ("args", "args_no_equals"):
        assert refused([*base, *typed[macro]], {"data.batch_size": [1]}) is None


@pytest.mark.parametrize("spelled", ["null", "None", "in a file"])
def test_a_nested_number_may_be_null(spelled: str, tmp_path: Path) -> None:
    words = [f"--data.sampling.length={spelled}"]
    if spelled == "in a file":
        (tmp_path / "more.yaml").write_text("data: {init_args: {sampling: {length: null}}}")
        words = ["--config", str(tmp_path / "more.yaml")]
    base = ["--config", "configs/quickstart.yaml", *words]
    assert refused(base, {"data.sampling.seed": [None, 3]}) is None
    assert "--data.sampling.seed x" in (refused(base, {"data.sampling.seed": ["x"]}) or "")
