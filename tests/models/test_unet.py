from typing import Any

import pytest
import torch
from torch import nn

from segmentation.models import UNet

from .base import NetContract, assert_all_parameters_learn, keras_parameters


class TestUNet(NetContract):
    def build(self, in_channels: int = 3, classes: int = 1) -> UNet:
        return UNet(in_channels, classes, width=4)


class TestPaperUNet(NetContract):
    """As published: without batch norm, and with the dropout of the DIC-HeLa recreation."""

    def build(self, in_channels: int = 3, classes: int = 1) -> UNet:
        rates = (0.1, 0.1, 0.1, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)
        return UNet(in_channels, classes, width=4, dropout=rates, batch_norm=False)


class TestReducedUNet(NetContract):
    """Three levels and one convolution fewer per block."""

    def build(self, in_channels: int = 3, classes: int = 1) -> UNet:
        return UNet(in_channels, classes, width=4, depth=3, convs_per_block=1)


def test_23_convolutions() -> None:
    with torch.device("meta"):
        net = UNet()
    convs = [m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convs) == 23
    assert [convs.count(size) for size in ((3, 3), (2, 2), (1, 1))] == [18, 4, 1]
    widths = [m.out_channels for m in net.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"in_channels": 1, "batch_norm": False}, 31_030_593),
        # 31,037,633 trained ones, and two statistics for each of 5,888 normalised channels.
        ({"in_channels": 3}, 31_037_633 + 2 * 5_888),
    ],
)
def test_parameters(arguments: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert keras_parameters(UNet(**arguments)) == count


def test_reduced_size() -> None:
    net = UNet(width=4, depth=3, convs_per_block=1)
    assert net.stride == 4
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convs) == 5


@pytest.mark.parametrize("batch_norm", [True, False])
def test_bias_only_without_batch_norm(batch_norm: bool) -> None:
    net = UNet(width=2, depth=2, batch_norm=batch_norm)
    biases = [
        m.bias is not None
        for m in net.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert biases == [not batch_norm] * 6


def test_dropout_in_forward_order() -> None:
    net = UNet(width=2, depth=3, dropout=[0.1, 0.2, 0.3, 0.4, 0.5])
    seen: list[float] = []
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda layer, _inputs, _output: seen.append(layer.p))
    net(torch.randn(2, 3, 8, 8))
    assert seen == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_dropout_sits_between_convolutions() -> None:
    block = UNet(width=2, depth=1, dropout=0.5, batch_norm=False).encoder[0]
    assert isinstance(block, nn.Sequential)
    kinds = [type(layer) for layer in block]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Dropout, nn.Conv2d, nn.ReLU]


def test_no_dropout_by_default() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in UNet(width=2).modules())


def test_depth_one_has_no_pooling() -> None:
    net = UNet(width=2, depth=1)
    assert net.stride == 1
    assert net(torch.randn(1, 3, 5, 7)).shape == (1, 1, 5, 7)
    assert_all_parameters_learn(net, torch.randn(1, 3, 5, 7))


def test_he_normal() -> None:
    torch.manual_seed(0)
    weight = UNet(width=64, depth=1).get_parameter("encoder.0.3.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"convs_per_block": 0}, "convs_per_block must be at least 1, got 0"),
        ({"depth": 3, "dropout": [0.1, 0.2]}, "one rate or 5 .* got 2"),
        ({"dropout": []}, "one rate or 9 .* got 0"),
        ({"dropout": -0.1}, "between 0 and 1, but got -0.1"),
        ({"depth": 1, "dropout": [1.5]}, "between 0 and 1, but got 1.5"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{"width": 2, **arguments})
