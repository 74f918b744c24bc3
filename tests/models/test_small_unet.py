import pytest
import torch
from torch import nn

from segmentation.models import FamilyUNet, SimpleConv, SmallUNet, SmallUNetLess

from .base import keras_parameters

FAMILY = (SmallUNet, SmallUNetLess, FamilyUNet, SimpleConv)
FamilyClass = type[SmallUNet] | type[SmallUNetLess] | type[FamilyUNet] | type[SimpleConv]


# Published for one channel and three classes, the defaults. They match with a bias on every
# convolution, dense layers as 1x1 convolutions, and batch norm counted as four values a channel.
@pytest.mark.parametrize(
    ("cls", "count", "stride"),
    [
        *[(SmallUNet, 75_747, 4), (SmallUNetLess, 72_947, 4)],
        *[(SimpleConv, 37_763, 1), (FamilyUNet, 1_971_299, 16)],
    ],
)
def test_sizes(cls: FamilyClass, count: int, stride: int) -> None:
    assert keras_parameters(cls()) == count and cls().stride == stride


@pytest.mark.parametrize("cls", FAMILY)
def test_dropout_rate(cls: FamilyClass) -> None:
    rates = [m.p for m in cls(dropout=0.5).modules() if isinstance(m, nn.Dropout)]
    assert rates and set(rates) == {0.5}
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        cls(dropout=1.5)


def test_skips_are_added() -> None:
    """Silence the upsampling: what reaches the block is then the skip itself."""
    block = SmallUNet().eval().decoder[0]
    up, skip = torch.randn(1, 32, 4, 4), torch.randn(1, 32, 8, 8)
    for parameter in block.get_submodule("up").parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(up, skip), block.get_submodule("block")(skip))


def test_simple_conv_pads_like_same() -> None:
    """An even kernel pads 1 before and 2 after, as Keras and PyTorch's "same" both do."""
    net = SimpleConv(dropout=0).eval()
    padding, conv = net.features[0], net.features[1]
    assert isinstance(conv, nn.Conv2d)
    image = torch.randn(1, 1, 7, 9)
    with pytest.warns(UserWarning, match="even kernel"):
        expected = nn.functional.conv2d(image, conv.weight, conv.bias, padding="same")
    torch.testing.assert_close(conv(padding(image)), expected)
