"""A package for bioimage.io: what consumers do with it gives what the checkpoint gives."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from segmentation.checkpoints import load_task, record_of
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.export import bioimageio
from segmentation.io.files import sha256_of
from segmentation.runtimes.net import RUNNERS
from tests.predict.predicting import altered

SAID = {"authors": [{"name": "A. Person"}], "license": "CC-BY-4.0", "name": "Bright spots"}


def packaged(path: Path, output: Path, image: np.ndarray, *given: float) -> tuple[Any, float]:
    """The package's YAML, and how far its answer is from the checkpoint's."""
    task = load_task(path)
    samples, card = [Sample("a", image, None)], "---\nlicense: x\n---\n# What it is\n"
    about = task.predictor, record_of(task, path), samples, output, SAID, card
    apart = bioimageio.write(*about, given)
    return yaml.safe_load((output / "bioimageio/bioimageio.yaml").read_text()), apart


def image_of(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth noise, whose percentiles lie between no distant values."""
    import cv2

    noise = np.random.default_rng(0).random(shape, np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3).reshape(shape)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.asarray(smooth * (np.iinfo(dtype).max // 3), dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_package_gives_what_the_checkpoint_gives(
    checkpoint: Path, tmp_path: Path, dtype: Any
) -> None:
    text, apart = packaged(checkpoint, tmp_path, image_of(70, 90, 3, dtype=dtype))
    assert apart < 0.06  # a step of 8 bits, through a steep network
    folder = tmp_path / "bioimageio"
    (of_input,), (of_output,) = text["inputs"], text["outputs"]
    image, probs = (np.load(folder / one["test_tensor"]["source"]) for one in (of_input, of_output))
    assert image.dtype == dtype and of_input["data"]["type"] == np.dtype(dtype).name
    sides = {axis["id"]: axis["size"] for axis in of_input["axes"] if axis["type"] == "space"}
    for axis, side in zip("yx", image.shape[2:], strict=True):
        assert side >= sides[axis]["min"] and not (side - sides[axis]["min"]) % sides[axis]["step"]
    first, scaled, clip, last = of_input["preprocessing"]
    assert first == last == {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    assert clip["kwargs"] == {"min": 0.0, "max": 1.0}
    # What a consumer does, by the words of the specification.
    ends = [scaled["kwargs"][f"{end}_percentile"] for end in ("min", "max")]
    low, high = np.percentile(image.astype(np.float32), ends)
    ready = ((image - low) / (high - low + 1e-6)).clip(0, 1).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    np.testing.assert_allclose(session.run(None, {"image": ready})[0], probs, atol=2e-3)
    script = RUNNERS["torch"](folder / "model.pt", "")
    np.testing.assert_allclose(script(torch.from_numpy(ready)).numpy(), probs, atol=2e-3)
    target = load_task(checkpoint).target
    assert (target.decode(probs[0]) > 0).mean() > 0.01
    for one in (*text["weights"].values(), of_input["test_tensor"], of_output["test_tensor"]):
        assert one["sha256"] == sha256_of(folder / one["source"])
    assert text["authors"] == SAID["authors"] and text["name"] == "Bright spots"
    readme = (folder / "README.md").read_text()
    assert "# What it is" in readme and "percentiles of the whole image" in readme
    with zipfile.ZipFile(tmp_path / "bioimageio.zip") as archive:
        assert "bioimageio.yaml" in archive.namelist()


def test_a_fixed_range_and_gamma(checkpoint: Path, tmp_path: Path) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["preprocess"].update(gamma=0.5, channels="gray", intensity="divide")
        parts["net"] = {"class_path": "segmentation.models.UNet"}
        parts["net"]["init_args"] = {"in_channels": 1, "classes": 1, "width": 4, "depth": 2}

    path = altered(checkpoint, tmp_path / "x.ckpt", change)
    text, apart = packaged(path, tmp_path / "a", image_of(40, 40, 1))
    assert apart < 1e-5  # without percentiles, to rounding
    assert text["inputs"][0]["preprocessing"][1]["kwargs"]["gain"] == pytest.approx(1 / 255)
    text, _ = packaged(path, tmp_path / "b", image_of(40, 40, 1), 10, 60)
    fixed = text["inputs"][0]["preprocessing"][1]
    assert fixed == {"id": "scale_linear", "kwargs": {"gain": 0.02, "offset": -0.2}}
    assert "a fixed range" in (tmp_path / "b/bioimageio/README.md").read_text()


@pytest.mark.parametrize("channels", ["bright_on_dark", [0, 2]])
def test_channels_that_are_chosen_before(checkpoint: Path, tmp_path: Path, channels: Any) -> None:
    seen = 1 if channels == "bright_on_dark" else 2

    def change(parts: dict[str, Any]) -> None:
        parts["preprocess"].update(channels=channels)
        inner = {"in_channels": seen, "classes": 3, "width": 4, "depth": 2}
        parts["net"] = {"class_path": "segmentation.models.UNet", "init_args": inner}
        parts["target"] = {"class_path": "segmentation.targets.Contour"}

    path = altered(checkpoint, tmp_path / "x.ckpt", change)
    text, apart = packaged(path, tmp_path, 255 - image_of(70, 90, 3))
    assert apart < 0.06
    image = np.load(tmp_path / "bioimageio/test_input.npy")
    assert image.shape[1] == seen and (seen > 1 or np.median(image) < 128)
    (of_output,) = text["outputs"]
    names = next(axis for axis in of_output["axes"] if axis["type"] == "channel")
    assert names["channel_names"] == ["background", "interior", "contour"]
    readme = (tmp_path / "bioimageio/README.md").read_text()
    assert "Objects are where the first is below 0.5" in readme
    assert ("bright objects on dark" in readme) == (seen == 1)


def test_it_passes_the_specification(checkpoint: Path, tmp_path: Path) -> None:
    spec = pytest.importorskip("bioimageio.spec")
    packaged(checkpoint, tmp_path, image_of(70, 90, 3))
    summary = spec.load_description(tmp_path / "bioimageio.zip").validation_summary
    assert summary.status != "failed", summary.format()


@pytest.mark.parametrize(
    ("setting", "said", "given", "message"),
    [
        ({"resize": [64, 64]}, SAID, (), "preprocess.resize is"),
        ({"clahe": True}, SAID, (), "preprocess.clahe is True, which a bioimage.io package cannot"),
        ({"polarity": "dark"}, SAID, (), "preprocess.polarity is dark"),
        ({"magnification": 2.0}, SAID, (), "preprocess.magnification is 2.0"),
        ({}, {"license": "MIT"}, (), "lacks authors; it must be YAML such as authors:"),
        ({}, SAID, (9, 4), "--intensity_range 9 4: must be LOW HIGH, LOW below HIGH"),
        ({}, None, (), "needs --about FILE, a YAML file with authors:"),
    ],
)
def test_what_a_package_cannot_hold(
    checkpoint: Path, tmp_path: Path, setting: Any, said: Any, given: Any, message: str
) -> None:
    path = altered(checkpoint, tmp_path / "x.ckpt", lambda c: c["preprocess"].update(setting))
    about = None if said is None else tmp_path / "about.yaml"
    if about is not None:
        about.write_text(yaml.safe_dump(said))
    with pytest.raises(UserError, match=message):
        bioimageio.check(load_task(path).predictor, about, given)
