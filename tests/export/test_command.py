"""The command ``export`` with formats: files, proof, page, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import segmentation
from segmentation.__main__ import main
from segmentation.checkpoints import load_task
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.export import images, proof
from segmentation.export.int8 import calibration_windows, quantized, size_nodes
from tests.helpers import fit, refusal
from tests.predict.predicting import make_images

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def run(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(dsb_root, tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes seconds; one test has them."""
    monkeypatch.setattr(proof, "peak_megabytes", lambda *_: 1.0)


def argv(run: Path, output: Path, *more: str) -> list[str]:
    paths = [f"--ckpt_path={run / 'checkpoints/best.ckpt'}", f"--output={output}"]
    return ["export", *paths, *more]


def test_an_export_is_proved_on_the_validation_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(argv(run, out, "--format", "onnx", "openvino", "torchscript")) == 0
    names = {"model.onnx", "model.xml", "model.bin", "model.pt", "export.json", "export.html"}
    names |= {"README.md", "qupath.groovy", "fiji.ijm"}
    assert {path.name for path in out.iterdir()} == names
    report = json.loads((out / "export.json").read_text())
    assert report["on"].startswith("2 validation images of ") and report["images"] == 2
    first, *others = report["rows"]
    assert first["runtime"] == "checkpoint"
    runtimes = ["onnx, onnxruntime", "onnx, openvino", "openvino, openvino", "torchscript, torch"]
    assert [row["runtime"] for row in others] == runtimes
    for row in others:
        assert row["largest_difference"] < 1e-5 and row["foreground_iou"] > 0.99
        assert row["ms"] > 0 and row["megabytes"] > 0
        assert row["scores"]["image_iou"] == pytest.approx(first["scores"]["image_iou"], abs=0.01)
        assert len(row["loss"]["image_ap"]) == 3
    assert "--ckpt_path model.onnx" in (out / "README.md").read_text()
    shown = capsys.readouterr().out
    assert "onnx, onnxruntime" in shown and "same objects" in shown
    assert "of the checkpoint, mean over images" in (out / "export.html").read_text()
    again = argv(run, out, "--format", "onnx")
    assert "exists already; choose another --output" in refusal(capsys, again)


def test_whole_numbers_are_calibrated_on_training_images(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--precision", "int8", "--tolerance", "1"]
    assert main(argv(run, out, "--format", "onnx", "openvino", *more)) == 0
    report = json.loads((out / "export.json").read_text())
    assert report["calibrated_on"] == "11 training images" or "training" in report["calibrated_on"]
    kinds = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    one, two = (segmentation.load(out / f"model.{end}", device="cpu") for end in ("onnx", "xml"))
    # Single pixels may differ more: where two round otherwise, an activation moves by a step.
    assert np.abs(one.maps(image) - two.maps(image)).mean() < 0.01
    with pytest.raises(UserError, match="--backend openvino does not run it; onnxruntime can"):
        segmentation.load(out / "model.onnx", backend="openvino")


def test_sizes_are_not_computed_in_8_bits() -> None:
    made = [
        ("Shape", ["image"], "shape"),
        ("Cast", ["shape"], "real"),
        ("Div", ["real", "two"], "half"),
        ("Conv", ["image", "weight"], "seen"),
        ("Pad", ["seen", "half"], "wide"),
    ]
    nodes = [onnx.helper.make_node(kind, of, [out], name=out) for kind, of, out in made]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    assert size_nodes(model) == ["half", "real", "shape"]


def test_half_precision_is_on_other_images_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_images(tmp_path), tmp_path / "out"
    more = ["--precision", "fp16", "--data.images", str(folder), "--most", "2"]
    assert main(argv(run, out, "--format", "onnx", "openvino", *more)) == 0
    report = json.loads((out / "export.json").read_text())
    assert report["on"] == f"2 images of {folder}" and "scores" not in report["rows"][0]
    assert 0 < report["rows"][1]["largest_difference"] < 0.02
    before, after = (report["rows"][i]["megabytes"] for i in (0, 1))
    assert after < 0.7 * before
    out = tmp_path / "strict"
    line = refusal(capsys, argv(run, out, "--format", "onnx", *more, "--tolerance", "0"))
    assert "model.onnx: its probabilities differ by" in line and "the tolerance 0; do not" in line
    assert (out / "export.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--precision", "fp16"], "need a --format"),
        (["--format", "onnx", "--half"], "with --format give --precision fp16"),
        (["--format", "torchscript", "--precision", "int8"], "torchscript is written in fp32"),
        (["--format", "onxn"], "invalid choice: 'onxn'"),
        (["--format", "bioimageio", "--precision", "fp16"], "bioimageio is written in fp32"),
        (["--format", "bioimageio"], "needs --about FILE, a YAML file with authors:"),
        (["--format", "onnx", "--most", "0"], "--most 0: must be at least 1"),
        (["--format", "onnx", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--format", "onnx", "--data.images", "none"], "none: no such folder of images"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    run: Path, tmp_path: Path, more: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, argv(run, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_without_a_run_images_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    task = load_task(checkpoint)
    with pytest.raises(UserError, match=r"lies in no run's folder, .* --data.images, or the run's"):
        images.find(task, checkpoint, None, None, 4, False)
    with pytest.raises(UserError, match="--precision int8: needs training images to calibrate"):
        quantized(None, {}, task.predictor, [])
    (tmp_path / "x.yaml").write_text("data: {class_path: nothing.Here}")
    with pytest.raises(UserError, match=r"x.yaml: its data cannot be read here \("):
        images.find(task, checkpoint, tmp_path / "x.yaml", None, 4, False)


def test_calibration_sees_what_the_network_sees(checkpoint: Path) -> None:
    predictor = load_task(checkpoint).predictor
    image = np.random.default_rng(0).integers(0, 255, (300, 21, 3), np.uint8)
    (window,) = calibration_windows(predictor, [Sample("a", image, None)])
    prepared = predictor.preprocess.prepare(image)
    side = -(-21 // predictor.stride) * predictor.stride
    assert window.shape == (1, 3, 256, side) and window.dtype == np.float32
    left = (side - 21) // 2
    expected = prepared[22:278].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(window[0, :, :, left : left + 21], expected, atol=1e-6)


def test_peak_memory_is_of_a_process_of_its_own(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SEGMENTATION_TRUST", "tests")
    found = proof.peak_megabytes(checkpoint, None, (50, 40))
    assert found is not None and 100 < found < 5000
    assert proof.peak_megabytes(checkpoint.with_name("none"), None, (50, 40)) is None
    assert torch.get_num_threads() > 0
