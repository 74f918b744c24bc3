"""A package by the specification of bioimage.io: for Fiji, QuPath, napari and others.

https://github.com/bioimage-io/spec-bioimage-io, model 0.5. The network in it takes intensities from
0 to 1 and answers with probabilities: whatever comes between is part of its graph, so that
consumers need two steps alone, the scaling of intensities and a clip.
"""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor, nn

from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.evaluation.overlays import to_rgb
from segmentation.export.files import write_script
from segmentation.inference import padded, receptive_radius
from segmentation.io.files import sha256_of, write_bytes
from segmentation.predictor import Predictor
from segmentation.runtimes.net import RUNNERS
from segmentation.runtimes.trace import OPSET, onnx_of, traced

SPEC = "0.5.4"
FOLDER, YAML = "bioimageio", "bioimageio.yaml"
_HALO = 64  # pixels, of a network that sees the whole image
_LARGEST = 512  # pixels of a side of the test image
FILES = {"torch": "model.pt", "onnxruntime": "model.onnx"}  # what runs them ► weights
_SIZES = "crop", "resize", "magnification"


class Packaged(nn.Module):
    """(B, C, H, W) intensities in 0…1 ► probabilities (B, K, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        how = predictor.preprocess
        self.net, self.target, self.gamma = predictor.net, predictor.target, how.gamma
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(how, name)).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        whole = (image * 255).round()  # trained on 8 bits
        if self.gamma != 1:
            whole = ((whole / 255) ** self.gamma * 255).round()
        return self.target.probabilities(self.net((whole / 255 - self.mean) / self.std))


def check(predictor: Predictor, about: Path | None, intensity_range: Sequence[float]) -> Any:
    """What the author says of the package, from a YAML file; refuse what it cannot hold.

    Raises:
        UserError: The file lacks authors or a licence, or preprocessing does what the
            specification has no words for.
    """
    how = predictor.preprocess
    off: dict[str, Any] = {
        name: getattr(how, name) for name in _SIZES if getattr(how, name) is not None
    }
    off |= {"clahe": True} if how.clahe else {}
    off |= {"polarity": how.polarity} if how.polarity != "keep" else {}
    if off:
        name, value = next(iter(off.items()))
        raise UserError(
            f"--format bioimageio: preprocess.{name} is {value}, which a bioimage.io package "
            "cannot say; use --format onnx, or train without it"
        )
    if intensity_range and not (len(intensity_range) == 2 and np.diff(intensity_range) > 0):
        given = " ".join(f"{value:g}" for value in intensity_range)
        raise UserError(f"--intensity_range {given}: must be LOW HIGH, LOW below HIGH")
    example = "authors: [{name: …}], license: CC-BY-4.0, cite: [{text: …, doi: …}], name, …"
    if about is None:
        raise UserError(f"--format bioimageio: needs --about FILE, a YAML file with {example}")
    try:
        said = yaml.safe_load(about.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{about}: cannot be read ({str(error).splitlines()[0]})") from None
    for name in ("authors", "license"):
        if not isinstance(said, dict) or not said.get(name):
            raise UserError(f"{about}: lacks {name}; it must be YAML such as {example}")
    return said


def write(
    predictor: Predictor,
    record: dict[str, Any],
    samples: Sequence[Sample],
    output: Path,
    said: dict[str, Any],
    card: str,
    intensity_range: Sequence[float] = (),
) -> float:
    """Write the folder ``bioimageio`` and, of the same content, ``bioimageio.zip``.

    Args:
        predictor: Of the checkpoint.
        record: What is known of it.
        samples: Images; the first becomes the test image and the cover.
        output: The folder above.
        said: By the author; wins over what is written otherwise.
        card: Markdown about the network.
        intensity_range: (low, high) that become 0 and 1, instead of percentiles.

    Returns:
        The largest difference between probabilities of the package and the predictor, on the test
        image.
    """
    folder, how, network = output / FOLDER, predictor.preprocess, record["network"]
    stride, least = network["stride"], network["least_side"]
    channels = network["in_channels"]
    radius = receptive_radius(predictor.net, channels, stride, 4 * _HALO)
    halo = max(1, _HALO if radius is None else radius)
    smallest = -(-max(2 * halo + stride, least) // stride) * stride
    image = _test_image(samples[0], how, smallest, stride)
    script = traced(Packaged(predictor), channels, stride, least)
    target = predictor.target
    steps = _steps(how, image.dtype, intensity_range)
    with torch.inference_mode():
        probs = script(torch.from_numpy(_applied(steps, image)))
        plain = copy.copy(predictor)
        plain.preprocess = replace(how, channels=_taken(how))
        own = plain.maps(image[0].transpose(1, 2, 0))
    model = onnx_of(script, record)
    del model.metadata_props[:]  # its answers are probabilities, not what the record tells
    write_script(folder / "model.pt", script, None)
    write_bytes(folder / "model.onnx", model.SerializeToString())
    for name, array in (("test_input", image), ("test_output", probs.numpy())):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", array)
    write_bytes(folder / "cover.png", _cover(image, target.foreground(probs)[0].numpy()))
    write_bytes(folder / "README.md", _documentation(card, steps, how, predictor).encode())
    weights: dict[str, dict[str, Any]] = {
        "torchscript": {"pytorch_version": str(torch.__version__).partition("+")[0]},
        "onnx": {"opset_version": OPSET, "parent": "torchscript"},
    }
    for name, file in zip(weights, FILES.values(), strict=True):
        weights[name] |= {"source": file, "sha256": sha256_of(folder / file)}

    def axes(names: Sequence[str], of: str = "") -> list[dict[str, Any]]:
        sides: list[dict[str, Any]] = [{"type": "space", "id": one} for one in ("y", "x")]
        for side in sides:
            reference = {"tensor_id": of, "axis_id": side["id"]}
            side |= (
                {"size": reference, "halo": halo}
                if of
                else {"size": {"min": smallest, "step": stride}}
            )
        channel = {"type": "channel", "id": "channel", "channel_names": list(names)}
        return [{"type": "batch"}, channel, *sides]

    def tested(name: str) -> dict[str, str]:
        file = f"{name}.npy"
        return {"source": file, "sha256": sha256_of(folder / file)}

    text: dict[str, Any] = {
        "type": "model",
        "format_version": SPEC,
        "name": f"{network['class']} segmentation",
        "description": f"{network['class']}: finds {', '.join(target.class_names) or 'objects'}.",
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": ["segmentation", "2d", "pytorch", "biomedical-segmentation"],
        "inputs": [
            {
                "id": "image",
                "axes": axes([*_names(how)] or [f"channel_{i}" for i in range(channels)]),
                "test_tensor": tested("test_input"),
                "data": {"type": str(image.dtype), "range": [0, np.iinfo(image.dtype).max]},
                "preprocessing": steps,
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "axes": axes(target.channel_names, "image"),
                "test_tensor": tested("test_output"),
                "data": {"type": "float32"},
                "postprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}],
            }
        ],
        "weights": weights,
        "config": {"segmentation": {k: record[k] for k in ("version", "target", "preprocess")}},
    } | said
    write_bytes(folder / YAML, yaml.safe_dump(text, sort_keys=False, allow_unicode=True).encode())
    shutil.make_archive(str(output / FOLDER), "zip", folder)
    return float(np.abs(own - probs[0].numpy()).max())


def consumers(
    predictor: Predictor, record: Mapping[str, Any], output: Path, given: Sequence[float] = ()
) -> dict[str, tuple[Path, Callable[..., np.ndarray]]]:
    """What other programs do with the package: a name ► the weights, and :meth:`.Predictor.maps`.

    ``given`` is the fixed range of intensities.
    """
    how, network = predictor.preprocess, record["network"]

    def maps(run: Any, image: np.ndarray, names: Sequence[str] = (), *_: Any) -> np.ndarray:
        image = how.chosen(image, names, how.view_of(image)).transpose(2, 0, 1)[None]
        ready = torch.from_numpy(_applied(_steps(how, image.dtype, given), image))
        found: np.ndarray = padded(run, ready, network["stride"], network["least_side"])[0].numpy()
        return found

    made: dict[str, tuple[Path, Callable[..., np.ndarray]]] = {}
    for runtime, file in FILES.items():
        if find_spec(runtime):
            path = output / FOLDER / file
            source = path.read_bytes() if path.suffix == ".onnx" else path
            made[f"bioimageio, {runtime}"] = path, partial(maps, RUNNERS[runtime](source, path))
    return made


def _steps(how: Preprocess, dtype: np.dtype[Any], given: Sequence[float]) -> list[dict[str, Any]]:
    """How a consumer brings intensities to 0…1."""
    if not given and how.intensity == "divide":
        given = (0, np.iinfo(dtype).max)
    if given:
        low, high = map(float, given)
        gain = 1 / (high - low)
        scaled = {"id": "scale_linear", "kwargs": {"gain": gain, "offset": -low * gain}}
    else:
        axes = ["y", "x"] if isinstance(how.channels, tuple) else ["channel", "y", "x"]
        ends = {"min_percentile": how.low, "max_percentile": how.high, "eps": 1e-6}
        scaled = {"id": "scale_range", "kwargs": {"axes": axes, **ends}}
    # Without the last one, consumers would go back to the type of the image.
    first, last = ({"id": "ensure_dtype", "kwargs": {"dtype": "float32"}} for _ in range(2))
    return [first, scaled, {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}}, last]


def _applied(steps: Sequence[dict[str, Any]], image: np.ndarray) -> np.ndarray:
    """The steps as the specification has them, on (B, C, H, W)."""
    found, how = image.astype(np.float32), steps[1]["kwargs"]
    if steps[1]["id"] == "scale_linear":
        found = found * np.float32(how["gain"]) + np.float32(how["offset"])
    else:
        axes = tuple(["batch", "channel", "y", "x"].index(axis) for axis in how["axes"])
        ends = [how["min_percentile"], how["max_percentile"]]
        low, high = np.percentile(found, ends, axis=axes, keepdims=True).astype(np.float32)
        found = (found - low) / (high - low + np.float32(how["eps"]))
    return found.clip(0, 1).astype(np.float32)


def _test_image(sample: Sample, how: Preprocess, smallest: int, stride: int) -> np.ndarray:
    """(1, C, H, W) uint8 or uint16, the middle of an image, of a size that the package takes."""
    image = how.chosen(sample.image, sample.channels, how.view_of(sample.image))
    lack = [max(0, smallest - side) for side in image.shape[:2]]
    image = np.pad(image, ((0, lack[0]), (0, lack[1]), (0, 0)), "symmetric")
    sides = []
    for side in image.shape[:2]:
        most = max(min(side, _LARGEST), smallest)
        sides.append(smallest + (most - smallest) // stride * stride)
    top, left = ((have - take) // 2 for have, take in zip(image.shape[:2], sides, strict=True))
    image = image[top : top + sides[0], left : left + sides[1]]
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def _names(how: Preprocess) -> tuple[str, ...]:
    return tuple(map(str, how.channels)) if isinstance(how.channels, tuple) else ()


def _taken(how: Preprocess) -> Any:
    """The channels of an image that has those that the network sees, and no others."""
    chosen = tuple(range(how.in_channels))
    return chosen if isinstance(how.channels, tuple) else "gray" if how.decided else how.channels


def _cover(image: np.ndarray, probs: np.ndarray) -> bytes:
    """PNG, twice as wide as high: the image, and the foreground (H, W)."""
    side = min(probs.shape)
    left = to_rgb(np.ascontiguousarray(image[0, :, :side, :side].transpose(1, 2, 0)))
    shown = (probs[:side, :side].clip(0, 1) * 255).astype(np.uint8)
    both = np.hstack([left, np.repeat(shown[..., None], 3, axis=2)])
    wide = cv2.resize(both, (512, 256), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".png", wide[..., ::-1])
    assert done
    return bytes(data)


def _documentation(card: str, steps: Any, how: Preprocess, predictor: Predictor) -> str:
    """Markdown: how to use and to check it, and the model card below."""
    percentiles = (
        "Intensities are scaled by percentiles of the whole image. A consumer that takes them of "
        "each tile (QuPath) finds something else: export with --intensity_range LOW HIGH for it."
        if steps[1]["id"] == "scale_range"
        else "Intensities are scaled by a fixed range, the same for all images and tiles."
    )
    target = predictor.target
    first, *others = target.channel_names
    channels = f"{first}, {', '.join(others[:4])}{', …' * (len(others) > 4)}" if others else first
    where = (
        f"above {target.threshold:g}"
        if first == "foreground"
        else f"below {1 - target.threshold:g}"
    )
    shown = "It takes gray images of bright objects on dark: invert others before. " * how.decided
    body = card.partition("---\n")[2].partition("---\n")[2] if card.startswith("---") else card
    return (
        f"# Use\n\n{shown}The channels of the answer: {channels}. Objects are where the first is "
        f"{where}; objects that touch are told apart by `segmentation predict` of the checkpoint. "
        f"{percentiles}\n\n# Validation\n\nCompare with "
        "`test_output.npy`, which is what `test_input.npy` gives; score your own masks with "
        f"`segmentation evaluate`.\n\n{body}\n"
    )
