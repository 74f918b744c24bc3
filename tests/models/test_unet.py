from typing import Any

import pytest
import torch
from torch import nn

from segmentation.models import UNet

from .base import keras_parameters


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


def test_dropout_in_forward_order() -> None:
    net = UNet(width=2, depth=3, dropout=[0.1, 0.2, 0.3, 0.4, 0.5])
    seen: list[float] = []
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda layer, _inputs, _output: seen.append(layer.p))
    net(torch.randn(2, 3, 8, 8))
    assert seen == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_he_normal() -> None:
    torch.manual_seed(0)
    weight = UNet(width=64, depth=1).get_parameter("encoder.0.3.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be from 1 to 12, got 0"),
        ({"depth": 10**9}, "depth must be from 1 to 12, got 1000000000"),
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
