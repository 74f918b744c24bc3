"""Images cut into a grid of equal tiles, answered tile by tile and stitched in order."""

from typing import Any

import torch
from lightning import Callback
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.inference import network_stride
from segmentation.models.blocks import check_positive


class GridTiles(nn.Module):
    """Any network, which evaluates an image in ``division`` × ``division`` tiles.

    For networks trained on such tiles (``data.division``): in training it passes batches through,
    as they are tiles already. In evaluation each tile is answered by itself, so that a network sees
    no more around a pixel than in training; nothing overlaps and nothing is blended.

    ``stride`` is ``division`` times the network's. Images whose sides are no multiples of it are
    padded by ``segmentation.inference.padded``, as the task does, rather than refused: all
    tiles are then alike, larger than a grid of the image itself would have them by less than the
    network's own stride, and the margin is not scored. (Training does refuse such images.)

    Args:
        net: (B, C, h, w) ► logits (B, K, h, w). It stays reachable as ``tile_net``, under which
            name its parameters stand in the state dict.
        division: Tiles per row and per column; 1 evaluates whole images.
        tile_batch: Tiles that the network gets at once, which bounds the memory.

    Attributes:
        in_channels, classes: The network's, or ``None`` if it does not tell.
        stride: What height and width must be multiples of in evaluation.
        train_stride: The same of the tiles in training.
        whole_image: It divides whole images itself: prediction must not cut them.

    Raises:
        ValueError: ``division`` or ``tile_batch`` is below 1.
    """

    whole_image = True

    def __init__(self, net: nn.Module, division: int, tile_batch: int = 64) -> None:
        super().__init__()
        check_positive(division=division, tile_batch=tile_batch)
        self.tile_net = net
        self.division, self.tile_batch = division, tile_batch
        encoder = getattr(net, "encoder", None)
        self.in_channels: int | None = getattr(
            net, "in_channels", getattr(encoder, "in_channels", None)
        )
        self.classes: int | None = getattr(net, "classes", None)
        self.train_stride = network_stride(net)
        self.stride = division * self.train_stride

    def forward(self, image: Tensor) -> Any:
        """Compute logits.

        Args:
            image: (B, C, H, W) float: in training tiles, in evaluation whole images.

        Returns:
            In training whatever the network returns; in evaluation (B, K, H, W) logits.

        Raises:
            ValueError: In evaluation, H or W is no multiple of ``division``.
        """
        if self.training:
            return self.tile_net(image)
        tiles = cut(image, self.division)
        logits = torch.cat([self.tile_net(some) for some in torch.split(tiles, self.tile_batch)])
        return stitch(logits, self.division)


class SameTiles(Callback):
    """Refuses to train on other tiles than the network evaluates in."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trained, answered = trainer.datamodule.division, getattr(pl_module.net, "division", 1)
        if trained != answered:
            raise UserError(
                f"data.division is {trained} but model.net.division is {answered}: train and "
                "evaluate on the same tiles"
            )


def cut(image: Tensor, division: int) -> Tensor:
    """(B, C, H, W) ► (B · division², C, H / division, W / division), row by row of each image.

    Raises:
        ValueError: The tiles do not divide the image.
    """
    batch, channels, height, width = image.shape
    if height % division or width % division:
        raise ValueError(f"{division}x{division} tiles do not divide an image of {height}x{width}")
    grid = image.reshape(batch, channels, division, height // division, division, width // division)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def stitch(tiles: Tensor, division: int) -> Tensor:
    """The reverse of :func:`cut`: (B · division², K, h, w) ► (B, K, division · h, division · w)."""
    grid = tiles.reshape(-1, division, division, *tiles.shape[1:])
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
