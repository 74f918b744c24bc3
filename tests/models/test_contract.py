"""What every network must do."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from segmentation import models
from segmentation.models.blocks import SegmentationNet
from tests.models.base import assert_all_parameters_learn, logits_of, randomise_norms

Build = Callable[..., SegmentationNet]
RATES = (0.1, 0.1, 0.1, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)  # as published for DIC-HeLa
NETS: dict[str, Build] = {
    "UNet": partial(models.UNet, width=4),
    "UNet as published": partial(models.UNet, width=4, dropout=RATES, batch_norm=False),
    "UNet reduced": partial(models.UNet, width=4, depth=3, convs_per_block=1),
    "UNet++ accurate": partial(models.UNetPlusPlus, width=4),
    "UNet++ fast": partial(models.UNetPlusPlus, width=4, mode="fast", head=2),
    "UNet++ plain": partial(models.UNetPlusPlus, width=4, deep_supervision=False),
    "UNet++ reduced": partial(models.UNetPlusPlus, width=4, depth=3, convs_per_block=1),
    "SmallUNet": models.SmallUNet,
    "SmallUNetLess": models.SmallUNetLess,
    "FamilyUNet": models.FamilyUNet,
    "SimpleConv": models.SimpleConv,
    "VGGUNet": partial(models.VGGUNet, width=4),
    "EncoderUNet": partial(
        models.EncoderUNet,
        "tu-tf_mobilenetv3_small_minimal_100",
        decoder_channels=(16, 8, 8, 4, 4),
        detail=4,
    ),
}


@pytest.fixture(params=NETS)
def build(request: pytest.FixtureRequest) -> Build:
    torch.manual_seed(0)
    return partial(NETS[request.param], **{"in_channels": 3, "classes": 1})


@pytest.mark.parametrize(("in_channels", "classes"), [(1, 1), (3, 3), (4, 1)])
def test_shapes(build: Build, in_channels: int, classes: int) -> None:
    net = build(in_channels=in_channels, classes=classes)
    assert (net.in_channels, net.classes) == (in_channels, classes)
    image = 10 * torch.randn(2, in_channels, 2 * net.stride, 3 * net.stride)
    for logits in [*logits_of(net.train(), image), net.eval()(image)]:
        assert isinstance(logits, Tensor)
        assert logits.shape == (2, classes, *image.shape[2:]) and logits.dtype == torch.float32
        assert logits.min() < 0  # no sigmoid, softmax or ReLU at the end


def test_all_parameters_learn_and_come_back(build: Build) -> None:
    net, other = build(), build()
    assert_all_parameters_learn(net, torch.randn(2, 3, 2 * net.stride, 2 * net.stride))
    randomise_norms(net)
    other.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, net.stride, net.stride)
    assert torch.equal(net.eval()(image), other.eval()(image))


def test_channels_last_and_autocast(build: Build) -> None:
    net = build().eval()
    image = torch.randn(2, 3, 2 * net.stride, 2 * net.stride)
    expected = net(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(image)
        assert_all_parameters_learn(build(), image)
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.3)
    net.to(memory_format=torch.channels_last)
    actual = net(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_bad_input(build: Build) -> None:
    net = build()
    step = net.stride
    sizes = [(0, 0, step, step)]
    if step > 1:
        sizes += [(2 * step + 1, step, 3 * step, step), (step, 2 * step - 1, step, 2 * step)]
    for height, width, fit_height, fit_width in sizes:
        says = f"{height}x{width} .* stride {step}: {fit_height}x{fit_width} would work$"
        with pytest.raises(ValueError, match=says):
            net(torch.zeros(1, 3, height, width))
    with pytest.raises(ValueError, match=r"expected 3 channel\(s\), got 4"):
        net(torch.zeros(1, 4, step, step))
    with pytest.raises(ValueError, match=r"got shape \(3, \d+, \d+\)"):
        net(torch.zeros(3, step, step))
    for name in ("in_channels", "classes"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            build(**{name: 0})
