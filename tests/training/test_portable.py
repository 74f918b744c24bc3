"""Windows lacks SIGUSR1, fcntl and resource: nothing may name them where it is imported."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import importlib, pathlib, pkgutil, signal, sys
import torch, lightning, pandas, psutil, wandb  # which know what they need
import filelock._native._unix
import lightning.pytorch.trainer.connectors.signal_connector as connector

connector._SignalConnector.register_signal_handlers = lambda self: None  # as it does there
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGPIPE", "SIGALRM"):
    delattr(signal, name)
import segmentation
for module in pkgutil.walk_packages(segmentation.__path__, "segmentation."):
    importlib.import_module(module.name)
from segmentation.__main__ import main
assert main(sys.argv[2:]) == 0
(best,) = map(str, pathlib.Path().glob("runs/x/*/checkpoints/best.ckpt"))
predict = ["predict", "--ckpt_path", best, "--data.images", sys.argv[1], "--output", "predicted"]
assert main(predict) == 0
"""


def test_all_is_imported_and_used_without_what_windows_lacks(
    dsb_root: Path, tmp_path: Path
) -> None:
    tiny = "--model.net.width 4 --model.net.depth 3 --data.crop 32 --data.num_workers 0"
    tiny += " --data.sampling.length 8 --data.split.val 2 --data.split.test 3"
    tiny += " --trainer.max_epochs 1"
    tiny += " --run.wandb off --run.name x --run.resume true --trainer.accelerator cpu"
    fit = f"fit --config quickstart {tiny} --data.root {dsb_root}"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(dsb_root / "stage1_test"), *fit.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "predicted" / "images.csv").exists()
