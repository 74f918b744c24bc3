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
from segmentation.evaluation.table import columns
from segmentation.experiments.quantised import read_export
from segmentation.export import images, proof
from segmentation.export.int8 import calibration_windows, quantized, read_sizes_before, size_nodes
from segmentation.metrics.scores import scores_of
from segmentation.metrics.table import ScoreTable
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
    wanted = {"megabytes": others[0]["megabytes"], "seconds": others[0]["ms"] / 1000}
    assert read_export(out) == wanted | {"mean_iou": others[0]["scores"]["mean_iou"]}
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


def test_a_package_is_proved_as_others_run_it(run: Path, tmp_path: Path) -> None:
    out, about = tmp_path / "out", tmp_path / "about.yaml"
    about.write_text("authors: [{name: A. Person}]\nlicense: CC-BY-4.0\n")
    assert main(argv(run, out, "--format", "bioimageio", f"--about={about}")) == 0
    report = json.loads((out / "export.json").read_text())
    first, *others = report["rows"]
    assert [row["runtime"] for row in others] == ["bioimageio, torch", "bioimageio, onnxruntime"]
    for row in others:
        assert row["foreground_iou"] > 0.98 and row["peak_megabytes"] is None
        assert row["scores"]["image_iou"] == pytest.approx(first["scores"]["image_iou"], abs=0.02)
    assert "--ckpt_path best.ckpt" in (out / "bioimageio/README.md").read_text()
    report["rows"][1]["foreground_iou"] = 0.5
    with pytest.raises(UserError, match=r"model.pt: its foreground .* another --intensity_range"):
        proof.tell(report, tmp_path)


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


def test_sizes_are_read_before_the_quantisation() -> None:
    made = [
        ("Conv", ["image", "weight"], "seen"),
        ("QuantizeLinear", ["seen", "scale"], "whole"),
        ("DequantizeLinear", ["whole", "scale"], "real"),
        ("Shape", ["real"], "size"),
        ("Shape", ["image"], "first"),
        ("Pad", ["real", "size"], "wide"),
    ]
    nodes = [onnx.helper.make_node(kind, of, [out], name=out) for kind, of, out in made]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    read_sizes_before(model)
    inputs = {node.name: list(node.input) for node in model.graph.node}
    assert inputs["size"] == ["seen"] and inputs["first"] == ["image"]
    assert inputs["wide"] == ["real", "size"]


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


def test_masks_beside_the_images_give_scores(
    run: Path, folder_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--format", "onnx", "--data.images", str(folder_root / "images"), "--most", "3"]
    masks = ["--data.masks", str(folder_root / "masks")]
    assert main(argv(run, out, *more, *masks)) == 0
    report = json.loads((out / "export.json").read_text())
    assert report["images"] == 3 and report["on"].endswith(f"with the masks of {masks[1]}")
    row = report["rows"][1]
    task = load_task(run / "checkpoints/best.ckpt")
    some = images.find(task, run / "checkpoints/best.ckpt", None, folder_root / "images", 3, False)
    masked = images.find(
        task, run / "x/y", None, folder_root / "images", 3, False, folder_root / "masks"
    )
    for one, other in zip(some.samples, masked.samples, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.labels is None and other.labels is not None and other.labels.max() > 1
    table = ScoreTable(task.target.threshold)
    for sample in masked.samples:
        assert sample.labels is not None
        found = task.predictor.find(sample.image)
        truth, labels = (torch.from_numpy(ids)[None] for ids in (sample.labels, found.labels))
        table.update(truth, labels, ids=[sample.id], groups=[""])
    expected = scores_of(columns(table.rows()))["image_iou"].value
    assert row["scores"]["image_iou"] == pytest.approx(expected, abs=1e-6)
    alone = argv(run, tmp_path / "a", "--format", "onnx", *masks)
    assert "are of the images of --data.images" in refusal(capsys, alone)
    (tmp_path / "few").mkdir()
    few = argv(run, tmp_path / "b", *more, "--data.masks", str(tmp_path / "few"))
    assert "few" in refusal(capsys, few) and not (tmp_path / "b").exists()


def test_an_export_is_tested_as_its_checkpoint_is(
    run: Path, dsb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, (config, *_) = tmp_path / "out", run.glob("config.yaml")
    assert main(argv(run, out, "--format", "onnx", "torchscript")) == 0
    expected = json.loads((run / "scores.json").read_text())
    for name in ("model.onnx", "model.pt"):
        words = ["test", f"--config={config}", f"--ckpt_path={out / name}"]
        assert main([*words, f"--run.root={tmp_path / 'runs'}", f"--run.name={name}"]) == 0
        (scores,) = (tmp_path / "runs" / name).glob("*/scores.json")
        found = json.loads(scores.read_text())
        assert found["network"].keys() == expected["network"].keys()
        for score, value in expected["network"].items():
            assert found["network"][score] == pytest.approx(value, abs=1e-3, nan_ok=True), score
        assert found["otsu"] == expected["otsu"]
    leak = [*words, f"--run.root={tmp_path / 'runs'}", "--data.split.seed=5"]
    assert "were trained on by" in refusal(capsys, leak)
    assert "give the checkpoint" in refusal(capsys, ["tune", *words[1:]])


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
    found = proof.peak_megabytes(checkpoint, "torch", (50, 40))
    assert found is not None and 100 < found < 5000
    assert proof.peak_megabytes(checkpoint.with_name("none"), "torch", (50, 40)) is None
    assert torch.get_num_threads() > 0
