"""Tiles say what the network says of the image in one piece."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.inference.padding import network_stride, padded
from segmentation.inference.sliding import Tiling, receptive_radius, sliding
from segmentation.inference.tta import d4_mean
from segmentation.models import UNet, VGGUNet

# Of UNet(depth=4): two 3x3 convolutions at each level down and up are 2 + 4 + 8, twice, and 16 at
# the bottom; a pixel may lie anywhere in the 8x8 cell that is a pixel there.
RADIUS = 2 * (2 + 4 + 8) + 16 + 7


def unet(**settings: int) -> UNet:
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


@pytest.mark.parametrize("size", [(303, 291), (297, 61), (3, 301)])
@pytest.mark.parametrize(("tile", "ramp"), [(128, 0), (160, 16), (176, 5)])
def test_it_equals_the_image_in_one_piece(size: tuple[int, int], tile: int, ramp: int) -> None:
    net, image = unet(), torch.rand(2, *size)

    def probabilities(x: Tensor) -> Tensor:
        return net(x).sigmoid()

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


def test_what_the_network_is_shown() -> None:
    """Tiles start at multiples of the stride, are multiples of it, and none is too large."""
    ramp = torch.arange(101.0)[None, :, None] + 1000 * torch.arange(75.0)[None, None, :]
    shown = []

    def net(tile: Tensor) -> Tensor:
        shown.append((int(tile[0, 0, 0, 0]), tuple(tile.shape[2:])))
        return tile

    bands = tiled(net, ramp, Tiling(32, 8, 4, 3))
    assert worst(bands, ramp) < 1e-2  # of 75,000
    wanted = padded(lambda x: x, ramp[None], 8)  # unpadded again: the first row and column show it
    assert wanted.shape[1:] == ramp.shape
    for corner, (height, width) in shown:
        assert height % 8 == width % 8 == 0 and max(height, width) <= 32
        # Row 0 of the padded image is row -1 of this one, which reflects row 1; columns: 5 missing.
        if corner % 1000 > 1:
            assert (corner % 1000 + 1) % 8 == 0
        if corner // 1000 > 2:
            assert (corner // 1000 + 2) % 8 == 0
    assert len(shown) == 6 * 4


def test_an_image_smaller_than_a_tile_is_one_piece() -> None:
    net, image = unet(), torch.rand(2, 61, 47)
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return net(x)

    (band,) = tiled(counted, image, Tiling(512, 8, RADIUS))
    with torch.inference_mode():
        np.testing.assert_array_equal(band, padded(net, image[None], 8)[0].numpy())
    assert calls == [(1, 2, 64, 48)]


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
    assert Tiling(fit, 16, margin, ramp).step >= 16
    with pytest.raises(UserError, match="must not be negative"):
        Tiling(64, 16, -1)


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


def test_a_network_of_segmentation_models_pytorch() -> None:
    torch.manual_seed(0)
    net = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4)).eval()
    stride = network_stride(net)
    assert receptive_radius(net, 3, stride, most=64) is None  # it sees farther than that
