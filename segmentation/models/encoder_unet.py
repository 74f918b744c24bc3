"""U-Net over any encoder of segmentation-models-pytorch, with a skip at full resolution."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.models.blocks import ConvBlock, SegmentationNet, check_positive, init_weights

LEVELS = 5  # halvings; a shallower encoder of smp keeps layers that never learn, and DDP waits


class EncoderUNet(SegmentationNet):
    """A pretrained encoder, a U-Net decoder, and a skip at full resolution. `stride` is 32.

    Encoders of segmentation-models-pytorch, and so the skips of its decoders, begin at half
    resolution, which blurs the outlines of small objects. Here the image itself goes through a
    block of its own to the last of the decoder, as in U-Net (Ronneberger et al. 2015).

    Args:
        encoder_name: any of smp's encoders, "tu-NAME" for those of timm.
        encoder_weights: "imagenet" or another name that smp knows for it, or None. On the command
            line also a file, see :func:`segmentation.models.encoder.load_encoder`.
        in_channels: 3 is what pretrained weights are made for.
        decoder_channels: of the decoder's five blocks, from 1/16 to full resolution.
        detail: channels of the skip at full resolution.

    Raises:
        ValueError: for arguments out of range.
        KeyError: smp does not know the encoder or these weights of it.

    >>> EncoderUNet("resnet18").stride
    32
    """

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: str | None = None,
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: Sequence[int] = (128, 64, 48, 32, 16),
        detail: int = 16,
    ) -> None:
        if len(decoder_channels) != LEVELS or min(decoder_channels) < 1:
            raise ValueError(
                f"decoder_channels must be {LEVELS} positive numbers, got {list(decoder_channels)}"
            )
        check_positive(detail=detail)
        super().__init__(in_channels, classes, stride=2**LEVELS)
        # Not at the top: it takes seconds, and other networks do without.
        from segmentation_models_pytorch.encoders import get_encoder

        # timm has one set of weights for a name, and smp warns of any other word for it than True.
        timms = encoder_name.startswith("tu-") and encoder_weights is not None
        weights = True if timms else encoder_weights
        self.encoder = get_encoder(encoder_name, in_channels, LEVELS, weights)
        self.detail = ConvBlock(in_channels, detail)
        self.decoder = nn.ModuleList()
        skips = [detail, *self.encoder.out_channels[1:]]  # from full resolution to 1/32
        source = skips.pop()
        for channels in decoder_channels:
            self.decoder.append(ConvBlock(source + skips.pop(), channels))
            source = channels
        self.head = nn.Conv2d(source, classes, kernel_size=1)
        for module in (self.detail, self.decoder, self.head):
            module.apply(init_weights)

    def forward(self, image: Tensor) -> Tensor:
        self.check_input(image)
        skips = [self.detail(image), *self.encoder(image)[1:]]  # the first is the image as it is
        x = skips.pop()
        for block in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skips.pop()], dim=1))
        logits: Tensor = self.head(x)  # (N, classes, H, W)
        return logits
