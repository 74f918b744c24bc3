"""HRNet (Wang et al. 2019, arXiv:1908.07919) as segmentation-models-pytorch offers timm's."""

import socket
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from segmentation.data.preprocess import Preprocess
from segmentation.experiments.studies import GridTiles
from segmentation.fitting import check_fit
from segmentation.inference import network_stride, padded
from segmentation.targets import Foreground

from .base import assert_all_parameters_learn

NAME = "tu-hrnet_w18_small"  # the smallest; "tu-hrnet_w18" is system C's in name


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Built without weights, and without asking a network for them."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asks the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        torch.manual_seed(0)
        built: nn.Module = smp.Unet(NAME, encoder_weights=None, in_channels=3, classes=1)
    return built


def test_sizes(net: nn.Module) -> None:
    assert network_stride(net) == 32 and GridTiles(net, 4).stride == 128
    check_fit(net, Foreground(), Preprocess(channels=3))
    net.eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, 64, 96)).shape == (2, 1, 64, 96)
        for size in ((33, 70), (20, 64), (1, 1)):
            logits = padded(net, torch.randn(1, 3, *size), network_stride(net))
            assert logits.shape == (1, 1, *size) and bool(torch.isfinite(logits).all())


def test_every_parameter_learns(net: nn.Module) -> None:
    """Also those of the highest resolutions: DDP waits for ever for a gradient that never comes."""
    torch.manual_seed(0)
    assert_all_parameters_learn(net, torch.randn(2, 3, 64, 64))
