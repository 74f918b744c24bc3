"""Checkpoints beyond what the commands try: see test_cli and test_predict for the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from segmentation import __version__
from segmentation.__main__ import main
from segmentation.checkpoints import (
    build_task,
    load,
    load_task,
    read_checkpoint,
    sidecar,
)
from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.io.files import sha256_of
from segmentation.losses import BCEDice
from segmentation.predict.export import save_for_inference
from segmentation.targets import Foreground
from segmentation.task import SegmentationTask
from segmentation.training.arguments import composed
from segmentation.trust import without_download
from tests.helpers import arguments, fit, refusal
from tests.predict.predicting import argv, make_checkpoint, make_images

CONFIG: dict[str, Any] = {
    "class_path": "segmentation.task.SegmentationTask",
    "init_args": {
        "net": {
            "class_path": "segmentation.models.UNet",
            "init_args": {"in_channels": 1, "width": 2, "depth": 2},
        },
        "loss": {"class_path": "segmentation.losses.BCEDice"},
        "target": {"class_path": "segmentation.targets.Foreground"},
        "preprocess": {"channels": 1, "gamma": 0.5},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}


def save(task: SegmentationTask, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_a_task_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    task = build_task(CONFIG)
    assert task.config == CONFIG and task.preprocess == Preprocess(channels=1, gamma=0.5)
    again = load_task(save(task, tmp_path / "x.ckpt"))
    assert again.config == CONFIG and again.preprocess == task.preprocess and not again.training
    image = torch.randint(0, 256, (1, 1, 9, 12), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(image), task.eval()(image))
    assert save(again, tmp_path / "y.ckpt").exists()  # and goes again as it came
    assert load_task(tmp_path / "y.ckpt").config == CONFIG


def test_a_task_made_by_hand_is_loaded_by_hand(tmp_path: Path) -> None:
    def parts() -> Any:
        optimizer = lambda p: SGD(p, 0.1)  # noqa: E731
        return (nn.Conv2d(1, 1, 1), BCEDice(), Foreground(), Preprocess(channels=1), optimizer)

    path = save(SegmentationTask(*parts()), tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: was trained without a config; load it in Pyth"):
        load_task(path)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.ckpt"):
        with pytest.raises(UserError, match=rf"^{path}: no such checkpoint; check the path"):
            read_checkpoint(path)
    path = save(build_task(CONFIG), tmp_path / "x.ckpt")
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 1, 100, 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.ckpt: not a checkpoint, or a broken one"):
            read_checkpoint(path)


def test_nothing_is_downloaded_wherever_the_encoder_is_named() -> None:
    net = {"class_path": "smp.Unet", "init_args": {"encoder_weights": "imagenet", "depth": 4}}
    config = {"net": net, "many": [net, 3], "encoder_weights": "imagenet"}
    bare = {"class_path": "smp.Unet", "init_args": {"encoder_weights": None, "depth": 4}}
    assert without_download(config) == {"net": bare, "many": [bare, 3], "encoder_weights": None}
    assert net["init_args"]["encoder_weights"] == "imagenet"  # type: ignore[index]


def test_an_exported_checkpoint_is_small_and_says_the_same(
    dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = fit(dsb_root, tmp_path / "fit") / "checkpoints/best.ckpt"
    settings = {"target": {"threshold": 0.25}, "checkpoint_sha256": sha256_of(best)}
    sidecar(best).write_text(json.dumps(settings))
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    trained = load_task(best)
    with torch.no_grad():
        told = trained(image)
    sizes = [best.stat().st_size]
    for name, more, apart in (("full", [], 0.0), ("half", ["--half"], 2e-3)):
        output = tmp_path / f"{name}.ckpt"
        argv = ["export", f"--ckpt_path={best}", f"--output={output}", *more]
        assert main(argv) == 0
        sizes.append(output.stat().st_size)
        assert f"{output}: {sizes[-1] / 1e6:.1f} MB of {sizes[0] / 1e6:.1f} MB" in (
            capsys.readouterr().out
        )
        task = load_task(output)
        assert task.target.threshold == 0.25  # without the file beside it
        assert task.trained_on == trained.trained_on  # leaks are still refused
        ours, theirs = (one.predictor.training_diameters for one in (trained, task))
        assert ours is not None and theirs is not None and len(ours.of_each) == 7
        assert ours.plain() == theirs.plain()
        with torch.no_grad():
            assert (task(image) - told).abs().max() <= apart
        assert next(task.parameters()).dtype == torch.float32
        assert main(arguments("test", dsb_root, tmp_path / name, f"--ckpt_path={output}")) == 0
        assert "exists already; choose another --output" in refusal(capsys, argv)
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]
    goes_on = arguments("fit", dsb_root, tmp_path / "on", f"--ckpt_path={output}")
    assert "half.ckpt: cannot be trained on" in refusal(capsys, goes_on)


def test_what_half_precision_cannot_hold_stays_as_it_is(tmp_path: Path) -> None:
    checkpoint = {"segmentation": {}, "state_dict": {"a": torch.tensor([1e5]), "b": torch.ones(2)}}
    checkpoint["state_dict"]["n"] = torch.tensor(70_000)
    save_for_inference(checkpoint, tmp_path / "x.ckpt", half=True)
    state = read_checkpoint(tmp_path / "x.ckpt")["state_dict"]
    assert state["a"].item() == 1e5 and state["b"].dtype == torch.float16
    assert state["n"].item() == 70_000


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("net", {"class_path": "segmentation.gone.Net"}),
        ("net", {"class_path": "segmentation.models.UNet", "init_args": {"depth_of_it": 2}}),
        ("net", {"class_path": "segmentation.models.UNet", "init_args": {"in_channels": 1}}),
        ("preprocess", {"channels": 1, "contrast": 2}),
    ],
)
def test_a_config_that_does_not_fit_what_is_installed(
    part: str, value: dict[str, Any], tmp_path: Path
) -> None:
    path = save(build_task(CONFIG), tmp_path / "x.ckpt")
    checkpoint = read_checkpoint(path)
    checkpoint["segmentation"]["config"]["init_args"][part] = value
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"x\.ckpt: its network cannot be built again here") as told:
        load_task(path)
    assert f"was trained under version {__version__}, this is {__version__}" in str(told.value)
    del checkpoint["segmentation"]["version"]  # not always written
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"under version 0\.1\.0 or older, this is"):
        load_task(path)
    del checkpoint["segmentation"]["config"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"x\.ckpt: was trained without a config"):
        load_task(path)


def test_classes_of_packages_that_nobody_trusts_are_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_checkpoint(tmp_path / "x.ckpt")
    predict = argv(path, make_images(tmp_path), tmp_path / "out")
    monkeypatch.delenv("SEGMENTATION_TRUST")
    says = r"names tests\.tiny\.Tiny, .* --trust tests, or set SEGMENTATION_TRUST=tests"
    for trust in ((), ("test", "tests.tin", "Tiny")):
        with pytest.raises(UserError, match=says):
            load_task(path, trust)
    exported = ["export", f"--ckpt_path={path}", f"--output={tmp_path / 'small.ckpt'}"]
    for command in (predict, exported, ["serve", f"--ckpt_path={path}"]):
        assert "names tests.tiny.Tiny" in refusal(capsys, command)
    for command in (predict, exported):
        assert main([*command, "--trust", "mine", "tests"]) == 0
    assert load(path, device="cpu", trust=["tests"]).net.training is False
    # Who scores it and names the class would build it anyway.
    score = ["test", f"--ckpt_path={path}"]
    with pytest.raises(UserError, match=says):
        composed([*score, "--model.net=tests.tiny.Other", "--data.root=a/tests.tiny.Tiny"])
    assert composed([*score, "--model.net=tests.tiny.Tiny"])
    for trust in (["--trust=tests"], ["--trust", "mine", "tests.tiny"]):
        assert composed([*score, *trust, "--data.root=data"])[-len(trust) - 1 : -1] == trust
    # A class may be named without its class_path.
    checkpoint = read_checkpoint(path, trust=["tests"])
    checkpoint["segmentation"]["config"]["init_args"]["net"] = "tests.tiny.Tiny"
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=says):
        load_task(path)


def test_class_paths_of_older_checkpoints(tmp_path: Path) -> None:
    path = save(build_task(CONFIG), tmp_path / "x.ckpt")
    checkpoint = read_checkpoint(path)
    parts = checkpoint["segmentation"]["config"]["init_args"]
    tiles = {"class_path": "segmentation.inference.tiles.GridTiles"}
    parts["net"] = {**tiles, "init_args": {"net": parts["net"], "division": 1}}
    state = checkpoint["state_dict"]
    nets = {k.replace("net.", "net.tile_net.", 1): v for k, v in state.items() if k[:4] == "net."}
    checkpoint["state_dict"] = nets | {k: v for k, v in state.items() if k[:4] != "net."}
    torch.save(checkpoint, path)
    assert type(load_task(path).net).__name__ == "GridTiles"


def test_a_sidecar_holds_nothing_but_numbers(tmp_path: Path) -> None:
    path = save(build_task(CONFIG), tmp_path / "x.ckpt")
    evil = {"target": {"threshold": {"class_path": "os.system"}}, "checkpoint_sha256": ""}
    sidecar(path).write_text(json.dumps(evil))
    with pytest.raises(UserError, match=r"x\.tuned\.json: cannot be read .*no numbers"):
        read_checkpoint(path)


def test_load_wants_paths() -> None:
    with pytest.raises(UserError, match="give the path of a checkpoint"):
        load()
    with pytest.raises(UserError, match=r"\['a.ckpt'\] is no path; give several as load\(one, "):
        load(["a.ckpt"])  # type: ignore[arg-type]
