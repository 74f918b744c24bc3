from pathlib import Path

import pytest
import torch

from segmentation.__main__ import main
from segmentation.checkpoints import load_task
from tests.helpers import CONFIGS, TINY, arguments, refusal, scores

TYPED = [w for w in TINY if "net." not in w]


@pytest.fixture(scope="module")
def run(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    argv = [
        "fit",
        f"--config={CONFIGS / 'dsb2018/unetpp_small.yaml'}",
        *TYPED,
        f"--data.root={dsb_root}",
        f"--run.root={runs}",
        "--model.net.width=4",
        "--model.net.depth=4",
    ]
    assert main(argv) == 0
    (folder,) = runs.glob("*/*")
    return folder


def prune(run: Path, output: Path, *more: str) -> list[str]:
    """The command for a run; its own run goes beside the output."""
    return [
        "prune",
        f"--config={run / 'config.yaml'}",
        f"--ckpt_path={run / 'checkpoints/best.ckpt'}",
        f"--output={output}",
        f"--run.root={output.parent / 'pruning'}",
        *more,
    ]


@pytest.mark.parametrize("level", [1, 3])
def test_the_pruned_network_answers_as_its_head(
    run: Path, level: int, tmp_path: Path, dsb_root: Path
) -> None:
    output = tmp_path / "pruned.ckpt"
    assert main(prune(run, output, f"--level={level}")) == 0
    whole, pruned = load_task(run / "checkpoints/best.ckpt"), load_task(output)
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        head = whole.net.head_logits(whole.predictor.normalized(image))[level - 1]
        assert torch.equal(pruned(image), head.sigmoid())
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in whole.parameters())
    argv = [
        "test",
        f"--config={CONFIGS / 'data/dsb2018.yaml'}",
        f"--ckpt_path={output}",
        *(w for w in TYPED if "model" not in w or "trainer" in w),
        f"--data.root={dsb_root}",
        f"--run.root={tmp_path / 'test'}",
    ]
    assert main(argv) == 0
    (tested,) = (tmp_path / "test").glob("*/*")
    assert scores(tested)["images"] == 3


def test_the_best_head_is_chosen_on_validation(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(prune(run, tmp_path / "pruned.ckpt")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {w[0]: w for w in lines if len(w) > 5 and w[0] in ("L1", "L2", "L3")}
    ious = {name: float(w[-3]) for name, w in rows.items()}
    (chosen,) = (name for name, w in rows.items() if w[1] == "*")
    assert ious[chosen] == max(ious.values())


def test_other_networks_are_refused(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    assert main(arguments("fit", dsb_root, tmp_path / "runs")) == 0
    (unet,) = (tmp_path / "runs").glob("*/*")
    output = tmp_path / "p.ckpt"
    assert "needs a UNetPlusPlus" in refusal(capsys, prune(unet, output))
    assert "--level 9" in refusal(capsys, prune(run, output, "--level=9"))
