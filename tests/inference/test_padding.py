"""The margin is added for the network alone: it shows nowhere in the result."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentation.inference.padding import network_stride, padded

SIZES = [(32, 32), (33, 31), (17, 40), (64, 50), (5, 9), (3, 3), (1, 7), (1, 1)]


class Spy(nn.Module):
    """Remembers what it was shown and answers with two channels of the same."""

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        return torch.cat([image, -image], dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 8, 16, 32])
def test_crops_back_exactly(size: tuple[int, int], stride: int) -> None:
    image, spy = torch.randn(2, 3, *size), Spy()
    result = padded(spy, image, stride)
    torch.testing.assert_close(result, torch.cat([image, -image], dim=1))
    height, width = spy.seen.shape[-2:]
    assert height % stride == 0 and width % stride == 0
    assert 0 <= height - size[0] < stride and 0 <= width - size[1] < stride


def test_a_fitting_image_is_passed_as_it_is() -> None:
    image, spy = torch.randn(1, 1, 32, 48), Spy()
    padded(spy, image, 16)
    assert spy.seen is image


@pytest.mark.parametrize("size", SIZES)
def test_a_local_network_does_not_see_the_margin(size: tuple[int, int]) -> None:
    """Away from the border a convolution gives what it gives without padding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    image = torch.randn(1, 2, *size)
    with torch.no_grad():
        plain, wide = net(image), padded(net, image, 32)
    assert wide.shape == plain.shape
    torch.testing.assert_close(wide[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2])


def test_the_margin_is_a_reflection_shared_by_both_sides() -> None:
    image, spy = torch.arange(5.0).view(1, 1, 1, 5).repeat(1, 1, 5, 1), Spy()
    padded(spy, image, 8)
    assert spy.seen[0, 0, 3].tolist() == [1, 0, 1, 2, 3, 4, 3, 2]
    tiny = torch.arange(2.0).view(1, 1, 1, 2)
    padded(spy, tiny, 8)
    assert spy.seen[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_gradients_and_memory_format() -> None:
    image = torch.randn(1, 3, 10, 11, requires_grad=True)
    channels_last = image.contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(padded(Spy(), channels_last, 8)[:, :3].sum(), image)
    torch.testing.assert_close(gradient, torch.ones_like(image))


@pytest.mark.parametrize(
    ("net", "stride"),
    [
        (SimpleNamespace(stride=16), 16),
        (SimpleNamespace(encoder=SimpleNamespace(output_stride=8)), 8),
        (SimpleNamespace(stride=4, encoder=SimpleNamespace(output_stride=8)), 4),
        (nn.Conv2d(1, 1, 3), 32),  # its own stride is a tuple and means something else
        (nn.Identity(), 32),
    ],
)
def test_network_stride(net: Any, stride: int) -> None:
    assert network_stride(net) == stride
