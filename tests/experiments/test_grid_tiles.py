"""Every pixel comes back to its place, and each tile is answered without its neighbours."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentation.experiments.grid_tiles import GridTiles, cut, stitch
from segmentation.inference import network_stride, padded
from segmentation.models import SmallUNet, UNetPlusPlus


class Spy(nn.Module):
    """Remembers the shapes it was shown and answers with two channels of the same."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return torch.cat([image, -image], dim=1)


def test_tiles_come_row_by_row() -> None:
    image = torch.arange(2 * 4 * 6).view(2, 1, 4, 6)
    tiles = cut(image, 2)
    assert tiles.shape == (8, 1, 2, 3)
    expected = [image[b, :, y : y + 2, x : x + 3] for b in (0, 1) for y in (0, 2) for x in (0, 3)]
    assert torch.equal(tiles, torch.stack(expected))


@pytest.mark.parametrize("division", [1, 2, 3, 8])
def test_stitching_reverses_cutting(division: int) -> None:
    image = torch.randn(2, 3, 5 * division, 2 * division)
    assert torch.equal(stitch(cut(image, division), division), image)
    last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(stitch(cut(last, division), division), image)


@pytest.mark.parametrize("size", [(7, 8), (8, 9), (1, 1)])
def test_tiles_that_do_not_divide_the_image(size: tuple[int, int]) -> None:
    net = GridTiles(nn.Identity(), 2).eval()
    with pytest.raises(
        ValueError, match=f"^2x2 tiles do not divide an image of {size[0]}x{size[1]}"
    ):
        net(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("division", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 64), (33, 47), (5, 9), (1, 1)])
def test_a_pointwise_network_notices_nothing(division: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 3, 1)
    net = GridTiles(plain, division).eval()
    image = torch.randn(2, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(padded(net, image, net.stride), plain(image))


def test_a_convolution_differs_at_seams_only() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(1, 1, 3, padding=1)
    net = GridTiles(plain, 4).eval()
    image = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        differs = (net(image) - plain(image)).abs()[0, 0] > 1e-5
    rows, columns = torch.arange(32)[:, None], torch.arange(48)
    beside = [
        ((at % side == 0) | (at % side == side - 1)) for at, side in ((rows, 8), (columns, 12))
    ]
    outer = [((at == 0) | (at == end)) for at, end in ((rows, 31), (columns, 47))]
    expected = (beside[0] & ~outer[0]) | (beside[1] & ~outer[1])
    assert torch.equal(differs, expected)


def test_each_tile_is_answered_as_if_alone() -> None:
    torch.manual_seed(0)
    plain = SmallUNet(1, 3).eval()
    net = GridTiles(plain, 2).eval()
    image = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        whole = net(image)
        for y in (0, 16):
            for x in (0, 24):
                window = (..., slice(y, y + 16), slice(x, x + 24))
                torch.testing.assert_close(whole[window], plain(image[window]))


@pytest.mark.parametrize("tile_batch", [1, 3, 16, 100])
def test_no_more_tiles_at_once(tile_batch: int) -> None:
    spy = Spy()
    image = torch.randn(2, 1, 8, 8)
    result = GridTiles(spy, 4, tile_batch).eval()(image)
    assert torch.equal(result, torch.cat([image, -image], dim=1))
    counts = [len(tiles) for tiles in spy.seen]
    assert sum(counts) == 32 and max(counts) == min(tile_batch, 32)
    assert len(counts) == -(-32 // tile_batch)


def test_padding_enlarges_all_tiles_alike() -> None:
    """520×696 in 8×8 of a network of stride 4: 544×704, tiles of 68×88 instead of 65×87."""
    spy = Spy()
    spy.stride = 4
    net = GridTiles(spy, 8)
    image = torch.randn(1, 1, 520, 696)
    assert padded(net.eval(), image, net.stride).shape == (1, 2, 520, 696)
    assert {tuple(tiles.shape[-2:]) for tiles in spy.seen} == {(68, 88)}


def test_in_training_batches_are_tiles_already() -> None:
    spy = Spy()
    net = GridTiles(spy, 8).train()
    image = torch.randn(3, 1, 5, 7)
    net(image)
    assert spy.seen[0] is image
    heads = GridTiles(UNetPlusPlus(1, width=2, depth=3), 2)
    outputs = heads.train()(torch.randn(2, 1, 8, 8))
    assert isinstance(outputs, list) and len(outputs) == 2
    assert heads.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 1, 8, 8)


class _Encoder(nn.Module):
    in_channels, output_stride = 3, 16


class _Library(nn.Module):
    """What the networks of a library tell of themselves."""

    encoder = _Encoder()


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (SmallUNet(1, 3), (1, 3, 8 * 4)),
        (_Library(), (3, None, 8 * 16)),
        (nn.Identity(), (None, None, 8 * 32)),
    ],
)
def test_what_it_tells_of_the_network(net: nn.Module, told: tuple[Any, ...]) -> None:
    tiles = GridTiles(net, 8)
    assert (tiles.in_channels, tiles.classes, tiles.stride) == told
    assert network_stride(tiles) == tiles.stride
    assert tiles.tile_net is net


def test_state_dict() -> None:
    """One prefix, nothing else: weights go between a network and its tiles."""
    net, other = SmallUNet(1, 3), SmallUNet(1, 3)
    tiles = GridTiles(net, 8)
    file = io.BytesIO()
    torch.save(tiles.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert list(state) == [f"tile_net.{name}" for name in net.state_dict()]
    GridTiles(other, 2).load_state_dict(state)
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(other.eval()(image), net.eval()(image))


@pytest.mark.parametrize("arguments", [{"division": 0}, {"division": 2, "tile_batch": 0}])
def test_bad_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        GridTiles(nn.Identity(), **arguments)
