"""U-Net over smp's encoders: the contract of all networks, and what its skip is for."""

import pytest
import torch
from torch import nn

from segmentation.models import EncoderUNet

from .base import assert_all_parameters_learn

SMALL = "tu-tf_mobilenetv3_small_minimal_100"


def test_size_of_the_shipped_config() -> None:
    net = EncoderUNet("tu-tf_efficientnet_lite0")
    encoder = sum(p.numel() for p in net.encoder.parameters())
    assert encoder == 3_371_008 - 1280 * (320 + 2)  # smp counts its unused last layer, too
    # Decoder: concatenated channels to its own, twice, with batch norm; then detail and head.
    blocks = zip((320, 128, 64, 48, 32), (112, 40, 24, 16, 16), (128, 64, 48, 32, 16), strict=True)
    rest = sum(9 * (a + b) * c + 9 * c * c + 4 * c for a, b, c in blocks)
    rest += 9 * 3 * 16 + 9 * 16 * 16 + 4 * 16 + 16 + 1
    assert sum(p.numel() for p in net.parameters()) == encoder + rest


@pytest.mark.parametrize("name", ["resnet18", "tu-convnext_atto"])
def test_other_encoders(name: str) -> None:
    """Also those that begin at a quarter of the resolution."""
    torch.manual_seed(0)
    net = EncoderUNet(name, decoder_channels=(8, 8, 8, 8, 4), detail=4)
    assert_all_parameters_learn(net, torch.randn(2, 3, 64, 96))
    assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 1, 64, 96)


def test_a_single_pixel_reaches_its_own_logit() -> None:
    """At full resolution, not smeared over the 2×2 pixels that the encoder begins with."""
    torch.manual_seed(0)
    net = EncoderUNet(SMALL, decoder_channels=(8, 8, 8, 8, 8)).eval()
    for block in net.encoder.modules():  # silence the encoder: what is left is the skip
        if isinstance(block, nn.BatchNorm2d):
            nn.init.zeros_(block.weight)
    image = torch.zeros(1, 3, 64, 64)
    image[..., 20, 30] = 3.0
    with torch.no_grad():
        change = (net(image) - net(torch.zeros_like(image))).abs()[0, 0]
    assert change[20, 30] > 0
    far = change.clone()
    far[16:25, 26:35] = 0  # four 3×3 convolutions reach 4 pixels
    assert far.max() < 1e-6 < change.max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoder_channels": (8, 8)}, r"5 positive numbers, got \[8, 8\]"),
        ({"decoder_channels": (8, 8, 8, 0, 8)}, "5 positive numbers"),
        ({"detail": 0}, "detail must be at least 1, got 0"),
    ],
)
def test_bad_arguments(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderUNet(SMALL, **wrong)  # type: ignore[arg-type]
