"""Padding, tiles and symmetries: the result is what the network says of the image in one piece."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.inference import (
    Tiling,
    d4_mean,
    network_stride,
    padded,
    receptive_radius,
    sliding,
)
from segmentation.models import UNet, VGGUNet

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
    assert height % stride == width % stride == 0
    assert 0 <= height - size[0] < stride and 0 <= width - size[1] < stride


def test_the_margin_is_a_reflection_shared_by_both_sides() -> None:
    image, spy = torch.arange(5.0).view(1, 1, 1, 5).repeat(1, 1, 5, 1), Spy()
    padded(spy, image, 8)
    assert spy.seen[0, 0, 3].tolist() == [1, 0, 1, 2, 3, 4, 3, 2]
    tiny = torch.arange(2.0).view(1, 1, 1, 2)
    padded(spy, tiny, 8)
    assert spy.seen[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


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


def test_the_mean_over_all_eight_symmetries() -> None:
    """A function that only sees the top left pixel answers from each corner twice."""
    image = torch.rand(1, 1, 4, 6)
    seen = []

    def corner(x: Tensor) -> Tensor:
        seen.append(x[0, 0, 0, 0].item())
        return x[:, :, :1, :1].expand_as(x)

    mean = d4_mean(corner, image)
    corners = image[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert sorted(seen) == sorted(2 * corners.tolist())
    assert torch.allclose(mean, corners.mean().expand_as(image))


# Of UNet(depth=4): two 3x3 convolutions at each level down and up are 2 + 4 + 8, twice, and 16 at
# the bottom; a pixel may lie anywhere in the 8x8 cell that is a pixel there.
RADIUS = 2 * (2 + 4 + 8) + 16 + 7


def unet(**settings: Any) -> UNet:
    """A U-Net whose batch norms are those of a trained one: they do more than pass on."""
    torch.manual_seed(0)
    net = UNet(**{"in_channels": 2, "classes": 2, "width": 4, "depth": 4, **settings}).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net


def tiled(net: Callable[[Tensor], Tensor], image: Tensor, tiling: Tiling) -> list[np.ndarray]:
    with torch.inference_mode():
        size = (image.shape[1], image.shape[2])
        return list(sliding(net, lambda rows, columns: image[:, rows, columns], size, tiling))


def worst(bands: list[np.ndarray], wanted: Tensor) -> float:
    found = torch.from_numpy(np.concatenate(bands, axis=1))
    assert found.shape == wanted.shape and found.dtype == torch.float32
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("size", [(303, 291), (297, 61), (3, 301), (61, 47)])
@pytest.mark.parametrize(("tile", "ramp"), [(128, 0), (160, 16), (176, 5)])
def test_it_equals_the_image_in_one_piece(size: tuple[int, int], tile: int, ramp: int) -> None:
    net, image = unet(), torch.rand(2, *size)

    def probabilities(x: Tensor) -> Tensor:
        result: Tensor = net(x).sigmoid()
        return result

    with torch.inference_mode():
        wanted = padded(probabilities, image[None], 8)[0]
    bands = tiled(probabilities, image, Tiling(tile, 8, RADIUS, ramp))
    assert (len(bands) > 1) == (size[0] > tile)
    assert worst(bands, wanted) < 1e-5


def test_a_margin_too_narrow_shows() -> None:
    """Otherwise the test above would prove nothing."""
    net, image = unet(), torch.rand(2, 200, 200)
    with torch.inference_mode():
        wanted = padded(net, image[None], 8)[0]
    assert worst(tiled(net, image, Tiling(64, 8, 4)), wanted) > 1e-2


@pytest.mark.parametrize("size", [(136, 152), (138, 150)])
def test_symmetries_are_averaged_tile_by_tile(size: tuple[int, int]) -> None:
    net, image = unet(depth=3, width=2), torch.rand(2, *size)
    tta = partial(d4_mean, net)
    with torch.inference_mode():
        wanted = padded(tta, image[None], 4)[0]
        # Where both sides get as much padding the order does not matter.
        torch.testing.assert_close(wanted, d4_mean(partial(padded, net, stride=4), image[None])[0])
    assert worst(tiled(tta, image, Tiling(96, 4, 23, 8)), wanted) < 1e-5


@pytest.mark.parametrize("length", [64, 72, 200, 1000])
@pytest.mark.parametrize("tiling", [Tiling(64, 8, 20), Tiling(64, 8, 10, 20), Tiling(64, 8, 0)])
def test_weights(tiling: Tiling, length: int) -> None:
    total = np.zeros(length)
    spans, weights = tiling.spans(length), tiling.weights(length)
    for (start, end), weight in zip(spans, weights, strict=True):
        total[start:end] += weight
        assert start % 8 == end % 8 == 0
        assert start == 0 or not weight[: tiling.margin].any()
        assert end == length or not weight[len(weight) - tiling.margin :].any()
        assert (weight >= 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (spans[0][0], spans[-1][1]) == (0, length)


def test_a_ramp_is_linear() -> None:
    left, right = Tiling(32, 8, 4, 8).weights(48)
    rising = [i / 9 for i in range(1, 9)]
    np.testing.assert_allclose(left, [1] * 20 + rising[::-1] + [0] * 4, rtol=1e-6)
    np.testing.assert_allclose(right, [0] * 4 + rising + [1] * 20, rtol=1e-6)


@pytest.mark.parametrize(
    ("tile", "margin", "ramp", "fit"),
    [(100, 8, 0, 112), (64, 32, 0, 80), (32, 8, 16, 48), (8, 0, 0, 16)],
)
def test_a_tile_that_does_not_fit(tile: int, margin: int, ramp: int, fit: int) -> None:
    with pytest.raises(UserError, match=rf"tile of {tile} pixels .* stride 16; set it to {fit},"):
        Tiling(tile, 16, margin, ramp)
    assert len(Tiling(fit, 16, margin, ramp).spans(fit)) == 1


@pytest.mark.parametrize(
    ("depth", "convs", "radius"),
    [(1, 2, 2), (2, 1, 1 + 2 + 1), (3, 2, 2 * (2 + 4) + 8), (4, 2, 2 * (2 + 4 + 8) + 16)],
)
def test_the_radius_of_a_u_net(depth: int, convs: int, radius: int) -> None:
    net = unet(depth=depth, convs_per_block=convs)
    with torch.inference_mode():
        found = receptive_radius(net, 2, net.stride)
    assert found is not None and radius <= found <= radius + net.stride - 1


def test_the_radius_along_both_axes() -> None:
    torch.manual_seed(0)
    for kernel in ((1, 9), (9, 1)):
        net = nn.Conv2d(1, 1, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        assert receptive_radius(net, 1, 1) == 4
    assert receptive_radius(nn.Identity(), 1, 1) == 0


def test_the_radius_that_was_measured_suffices() -> None:
    torch.manual_seed(1)
    net = VGGUNet(in_channels=1, width=2).eval()
    radius = receptive_radius(net, 1, 32)
    assert radius is not None
    image = torch.randn(1, 700, 96)
    with torch.inference_mode():
        wanted = padded(net, image[None], 32)[0]
    tile = -(-(2 * radius + 32) // 32) * 32
    bands = tiled(net, image, Tiling(tile, 32, radius))
    assert len(bands) > 2 and worst(bands, wanted) < 1e-5


class Pooled(nn.Module):
    """Sees its whole input through its mean."""

    def forward(self, image: Tensor) -> Tensor:
        return image - image.mean((2, 3), keepdim=True)


def test_a_network_that_sees_everything_has_no_radius() -> None:
    assert receptive_radius(Pooled(), 1, 8) is None
