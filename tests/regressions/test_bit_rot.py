"""Damaged weights are told in one line: bits of their file that changed, and answers of NaN."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import segmentation
from segmentation.errors import UserError
from segmentation.predict.export import save_for_inference
from tests.predict.predicting import make_checkpoint
from tests.regressions.conftest import Result, write_png

GRAY = np.full((40, 50, 3), 90, np.uint8)
ANSWERS_NAN = (
    "the network answers NaN or infinity: its training diverged, or its weights are damaged"
)


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "--ckpt_path=F", "--data.images=images", "--output=out"],
        ["serve", "--ckpt_path=F"],
        ["export", "--ckpt_path=F", "--output=out.ckpt"],
        ["card", "--ckpt_path=F"],
        ["test", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["tune", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["fit", "--config=folder", "--data.root=data", "--ckpt_path=F"],
    ],
    ids=" ".join,
)
def test_each_command_refuses_a_flipped_bit(
    command: list[str], run: Callable[..., Result], tmp_path: Path
) -> None:
    whole, path = make_checkpoint(tmp_path / "whole.ckpt"), tmp_path / "small.ckpt"
    save_for_inference(torch.load(whole), path)
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    for folder in ("images", "data/images", "data/masks"):
        write_png(Path(folder, "a.png"), GRAY[..., 0])
    result = run(*(word.replace("F", str(path)) for word in command))
    assert result.status == 2 and "small.ckpt: not a checkpoint, or a broken one" in result.line
    assert not Path("out").exists() and not Path("out.ckpt").exists()


@pytest.fixture
def diverged(tmp_path: Path) -> Path:
    """A checkpoint whose network answers infinity to whatever is not black."""
    path = make_checkpoint(tmp_path / "diverged.ckpt")
    content = torch.load(path)
    content["segmentation"]["config"]["init_args"]["preprocess"] = {"intensity": "divide"}
    for name in ("net.body.weight", "net.heads.0.weight"):
        content["state_dict"][name] *= 1e30
    save_for_inference(content, path)
    return path


def test_an_image_to_which_the_network_answers_infinity(
    diverged: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(Path("in/black.png"), 0 * GRAY)
    write_png(Path("in/gray.png"), GRAY)
    stack = np.zeros((3, 40, 50), np.uint8)
    stack[1] = 90
    tifffile.imwrite("in/stack.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite("in/streamed.tif", np.full((200, 300), 90, np.uint8), tile=(64, 64))
    monkeypatch.setattr("segmentation.predict.outputs.STREAMED", 30_000)
    outputs = ["--labels", "--probabilities", "--overlays", "--geojson", "--rois"]
    for _ in range(2):  # nor is it done when the command is started again
        result = run(
            *("predict", f"--ckpt_path={diverged}", "--data.images=in", "--output=out", *outputs),
            "--device=cpu",
        )
        assert result.status == 1
        for name in ("gray.png", "stack.tif", "streamed.tif"):
            assert f"left out  in/{name}: {ANSWERS_NAN}" in result.text
        files = [p.name for p in Path("out").rglob("*") if p.is_file()]
        assert not [name for name in files if name.startswith(("gray", "stack", "streamed", ".gr"))]
        assert files.count("black.png") == 2 and "black.tif" in files


def test_python_says_it_too(diverged: Path) -> None:
    model = segmentation.load(diverged, device="cpu")
    assert model.predict(0 * GRAY).max() == 0
    for tta in (False, True):
        model.tta = tta
        with pytest.raises(UserError, match=ANSWERS_NAN):
            model.predict(GRAY)
    large = np.full((1, 2**22 + 64, 1), 90, np.uint8)
    with pytest.raises(UserError, match=ANSWERS_NAN):
        model.predict(large)
