"""Half precision and compilation: on a GPU where there is one, a smoke test otherwise."""

from pathlib import Path

import pytest
import torch

from tests.helpers import fit, scores

GPU = torch.cuda.is_available()


@pytest.mark.parametrize(
    "precision",
    [
        "bf16-mixed",
        pytest.param("16-mixed", marks=pytest.mark.skipif(not GPU, reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("net", ["segmentation.models.UNet", "segmentation.models.UNetPlusPlus"])
def test_half_precision_trains(precision: str, net: str, dsb_root: Path, tmp_path: Path) -> None:
    more = [
        f"--trainer.precision={precision}",
        f"--trainer.accelerator={'gpu' if GPU else 'cpu'}",
        f"--model.net={net}",
    ]
    if net.endswith("PlusPlus"):
        more += [
            "--model.loss=segmentation.losses.DeepSupervision",
            "--model.loss.loss=segmentation.losses.BCEDice",
        ]
    run = fit(dsb_root, tmp_path, *more)
    assert 0 <= scores(run)["network"]["auroc"] <= 1


@pytest.mark.skipif(not GPU, reason="compilation for a CPU takes a minute")
def test_compiled_network_trains(dsb_root: Path, tmp_path: Path) -> None:
    run = fit(dsb_root, tmp_path, "--model.compile=true", "--trainer.accelerator=gpu")
    assert (run / "checkpoints/best.ckpt").exists()
