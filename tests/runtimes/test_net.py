"""Exported files in place of a checkpoint: the same answers, and what is wrong with them."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segmentation
from segmentation.__main__ import main
from segmentation.checkpoints import load_task, read_checkpoint, record_of
from segmentation.errors import UserError
from segmentation.export import files
from segmentation.runtimes import net as runtimes
from segmentation.runtimes.net import script_of
from segmentation.runtimes.record import EXTRA, FORMAT, KEY, needed
from segmentation.runtimes.trace import onnx_of
from tests.predict.predicting import altered, argv, make_images

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
EVERY = ("onnx", "openvino", "torchscript")


@pytest.fixture(scope="module")
def checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No pixel lies on the threshold, where rounding would decide."""
    content = torch.load(checkpoint)
    content["state_dict"]["net.heads.0.bias"] += 0.0123
    torch.save(content, path := tmp_path_factory.mktemp("off") / "best.ckpt")
    return path


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of every format. Do not change them."""
    task = load_task(checkpoint)
    record = record_of(task, checkpoint)
    script = script_of(task.net, record)
    folder = tmp_path_factory.mktemp("exported")
    return files.write(EVERY, folder, script, onnx_of(script, record), record)


def copied(path: Path, folder: Path) -> Path:
    for one in (path, path.with_suffix(".bin")):
        if one.exists():
            (folder / one.name).write_bytes(one.read_bytes())
    return folder / path.name


@pytest.mark.parametrize(
    ("format", "backend"),
    [("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", None), ("torchscript", None)],
)
def test_the_file_alone_predicts(
    checkpoint: Path, made: dict[str, Path], format: str, backend: Any
) -> None:
    model = segmentation.load(checkpoint, device="cpu")
    other = segmentation.load(made[format], device="cpu", backend=backend)
    image = np.random.default_rng(0).integers(0, 255, (61, 75, 3), np.uint8)
    for tta in (False, True):
        model.tta = other.tta = tta
        np.testing.assert_allclose(other.maps(image), model.maps(image), atol=1e-5)
    np.testing.assert_array_equal(other.predict(image), model.predict(image))


def test_a_command_writes_the_same_files(
    checkpoint: Path, made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_images(tmp_path)
    for name, path, more in (
        ("a", checkpoint, []),
        ("b", made["onnx"], ["--backend", "onnxruntime"]),
        ("c", checkpoint, ["--backend", "openvino"]),
    ):
        assert main(argv(path, folder, tmp_path / name, "--labels", *more)) == 0
        assert ("backend   " in capsys.readouterr().out) == bool(more)
    for one in [p for p in (tmp_path / "a").rglob("*.*") if p.parent.name != ".state"]:
        if one.is_file() and one.name != "manifest.json" and ".state" not in str(one):
            for other in "bc":
                path = tmp_path / other / one.relative_to(tmp_path / "a")
                assert path.read_bytes() == one.read_bytes(), path
    about = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab"]
    assert "backend" not in about[0] and about[1]["backend"] == ["onnxruntime"]


def test_tiles_and_ensembles(checkpoint: Path, made: dict[str, Path]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (150, 220, 3), np.uint8)
    whole = segmentation.load(checkpoint, device="cpu").maps(image)
    both = segmentation.load(made["onnx"], checkpoint, device="cpu")
    np.testing.assert_allclose(both.maps(image), whole, atol=1e-5)
    prepared = torch.from_numpy(both.preprocess.prepare(image).transpose(2, 0, 1).copy())
    tiling, same = both.tiling((150, 220), 96)
    assert same and tiling.margin == 0  # found by running the network, which looks at single pixels
    with torch.inference_mode():
        bands = list(
            both.bands(lambda rows, columns: prepared[:, rows, columns], (150, 220), tiling)
        )
    np.testing.assert_allclose(np.concatenate(bands, axis=1), whole, atol=2e-5)


def test_auto_takes_the_fastest(
    checkpoint: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def choose(nets: Any) -> Any:
        asked.append([getattr(one, "backend", "torch") for one in nets])
        return nets[-1]

    monkeypatch.setattr(runtimes, "fastest", choose)
    assert load_task(checkpoint, backend="auto").net.backend == "openvino"
    assert load_task(made["onnx"]).net.backend == "onnxruntime"
    assert load_task(checkpoint).net.__class__.__name__ == "Tiny"
    assert asked == [["torch", "onnxruntime", "openvino"], ["openvino", "onnxruntime"]]


def test_the_fastest_is_measured(made: dict[str, Path]) -> None:
    slow, fast = (runtimes.open_exported(made["onnx"], "onnxruntime") for _ in range(2))
    run = slow.run
    slow.run = lambda image: torch.stack([run(image) for _ in range(20)])[0]
    assert runtimes.fastest([slow, fast]) is fast


def test_what_was_tuned_travels_inside(checkpoint: Path, tmp_path: Path) -> None:
    tuned = altered(checkpoint, tmp_path / "x.ckpt", lambda c: None)
    content = torch.load(tuned)
    content["segmentation"]["config"]["init_args"]["target"]["init_args"]["threshold"] = 0.3
    content["segmentation"] |= {"trained_on": {"a": "b"}, "diameter": 11.0}
    torch.save(content, tuned)
    task = load_task(tuned)
    record = record_of(task, tuned)
    path = files.write(["torchscript"], tmp_path, script_of(task.net, record), None, record)
    again = load_task(path["torchscript"])
    assert again.target.threshold == 0.3 and again.trained_on == {"a": "b"}
    assert again.predictor.diameter == 11 and again.preprocess == task.preprocess


@pytest.mark.parametrize("format", EVERY)
@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_a_truncated_file_is_one_line(
    made: dict[str, Path], tmp_path: Path, format: str, share: float
) -> None:
    path = copied(made[format], tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"model\.\w+: .*(copy it again|could run code)"):
        segmentation.load(path)


@pytest.mark.parametrize("format", EVERY)
def test_a_changed_weight_is_found(made: dict[str, Path], tmp_path: Path, format: str) -> None:
    path = copied(made[format], tmp_path)
    file = path.with_suffix(".bin") if format == "openvino" else path
    data = bytearray(file.read_bytes())
    task = load_task(made["onnx"], backend="onnxruntime")
    weight = next(
        onnx.numpy_helper.to_array(one)
        for one in onnx.load(made["onnx"]).graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 4
    )
    place = bytes(data).find(weight.tobytes())
    data[place + 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"copy (it|both) again"):
        segmentation.load(path)
    assert task.net.in_channels == 3


def rewritten(path: Path, change: Any) -> None:
    """Change the record of an ONNX file."""
    model = onnx.load(path)
    record = json.loads(next(p.value for p in model.metadata_props if p.key == KEY))
    change(record)
    onnx.helper.set_model_props(model, {KEY: json.dumps(record)})
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format=FORMAT + 1, version="9.1"), "written by version 9.1, this is"),
        (lambda r: r.pop("network"), "its record is broken; copy the file again"),
        (lambda r: r["network"].update(in_channels=1), r"takes 3 channel\(s\), .* says 1; export"),
        (lambda r: r["preprocess"].update(channels=1), r"takes 3 channel\(s\) but .* makes 1"),
        (lambda r: r["target"].update(class_path="os.system"), "model.target names os.system"),
        (lambda r: r["target"].update(init_args={"a": 1}), "does not fit this version"),
    ],
)
def test_a_record_that_does_not_fit(
    made: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    path = copied(made["onnx"], tmp_path)
    rewritten(path, change)
    with pytest.raises(UserError, match=message):
        segmentation.load(path)


def test_networks_of_others_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    model = onnx.load(made["onnx"])
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="does not say how images are prepared"):
        segmentation.load(path)
    with pytest.raises(UserError, match="an exported network, which predict, test and serve"):
        read_checkpoint(made["onnx"])
    with zipfile.ZipFile(made["torchscript"]) as archive:
        assert any(name.endswith(EXTRA) for name in archive.namelist())


def test_a_missing_runtime_names_the_extra(
    made: dict[str, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"needs no_such, .*pip install 'biomed.*\[fast\]'"):
        needed("no_such", "x.onnx")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert load_task(checkpoint, backend="auto").net.__class__.__name__ == "Tiny"
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime, which is not installed"):
        segmentation.load(made["onnx"])
    with pytest.raises(UserError, match="--backend torch does not run it; openvino and onnxrun"):
        segmentation.load(made["onnx"], backend="torch")


def test_what_a_runtime_says_is_one_line(made: dict[str, Path]) -> None:
    net = runtimes.open_exported(made["onnx"], "onnxruntime")
    with pytest.raises(UserError, match=r"onnxruntime cannot run the network on 1×2×8×8 \("):
        net(torch.zeros(1, 2, 8, 8))


def test_an_image_of_other_channels(made: dict[str, Path]) -> None:
    model = segmentation.load(made["onnx"], backend="onnxruntime")
    with pytest.raises(UserError, match="the image has 4 channels"):
        model.predict(np.zeros((20, 20, 4), np.uint8))
