"""Networks as graphs that other runtimes read, for images of any size."""

from collections.abc import Callable

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segmentation import models
from segmentation.errors import UserError
from segmentation.runtimes.net import ExportedNet, converted, network_record, script_of
from segmentation.runtimes.trace import AdaptivePool, onnx_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
SMALL = {"encoder_weights": None, "encoder_name": "mobilenet_v2"}


def record_for(net: nn.Module, channels: int = 3) -> dict:
    return {"version": "0", "network": network_record(net, channels, 1)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.UNet(in_channels=3, classes=1, width=4, depth=3),
        lambda: models.UNetPlusPlus(in_channels=3, classes=1, width=4, depth=3),
        lambda: models.SmallUNet(in_channels=3, classes=1),
        lambda: models.EncoderUNet("mobilenet_v2"),
        lambda: smp.Unet(**SMALL, decoder_attention_type="scse"),
        lambda: smp.PSPNet(**SMALL),
        lambda: smp.PAN(**SMALL),
        lambda: smp.UPerNet(**SMALL, decoder_channels=16),
        lambda: smp.Segformer(**SMALL, decoder_segmentation_channels=16),
    ],
)
def test_any_network_for_any_size_and_batch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = make().eval()
    record = record_for(net)
    other = converted(net, record, "onnxruntime", "x.ckpt")
    assert isinstance(other, ExportedNet)
    stride, least = other.stride, other.least_side
    with torch.inference_mode():
        for shape in ((1, 3, least, least + stride), (3, 3, least + 2 * stride, least)):
            image = torch.rand(shape)
            torch.testing.assert_close(other(image), net(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(3, 2), (1, 6), (5, 5)])
def test_adaptive_pooling_is_pytorchs(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 11, 7)
    torch.testing.assert_close(AdaptivePool(size)(x), nn.AdaptiveAvgPool2d(size)(x))


class Sized(nn.Module):
    """Looks at the size of the image in Python."""

    stride = 4

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :1] * (2 if image.shape[-1] > 12 else 3)


class Sorted(nn.Module):
    """Has an operator that ONNX has not."""

    stride = 4

    def forward(self, image: Tensor) -> Tensor:
        return torch.fft.rfft2(image).abs().mean() + image[:, :1]


class Failing(nn.Module):
    stride = 4

    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError("no such thing")


def test_what_follows_the_size_in_python_is_refused() -> None:
    with pytest.raises(UserError, match="Sized cannot be exported, as its Python code looks at"):
        script_of(Sized(), record_for(Sized()))
    with pytest.raises(UserError, match=r"Failing cannot be exported \(no such thing\)"):
        script_of(Failing(), record_for(Failing()))


def test_an_operator_that_onnx_lacks_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    record = record_for(Sorted())
    with pytest.raises(UserError, match=r"has no operator aten::fft_rfft2; use --format torch"):
        onnx_of(script_of(Sorted(), record), record)
    assert capfd.readouterr() == ("", "")


def test_half_precision_rounds_the_weights_alone() -> None:
    torch.manual_seed(0)
    net = models.UNet(in_channels=3, classes=1, width=8, depth=2).eval()
    record = record_for(net)
    script = script_of(net, record)
    whole, small = onnx_of(script, record), onnx_of(script, record, half=True)
    assert small.ByteSize() < 0.65 * whole.ByteSize()
    import onnxruntime

    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    one, two = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"image": image})[0]
        for m in (whole, small)
    )
    assert 0 < np.abs(one - two).max() < 1e-2
