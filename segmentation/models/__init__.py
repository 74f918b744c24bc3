"""Networks from images (N, in_channels, H, W) to logits (N, classes, H, W)."""

from segmentation.models.encoder_unet import EncoderUNet
from segmentation.models.small_unet import FamilyUNet, SimpleConv, SmallUNet, SmallUNetLess
from segmentation.models.unet import UNet
from segmentation.models.unetpp import UNetPlusPlus
from segmentation.models.vgg_unet import VGGUNet

__all__ = [
    "EncoderUNet",
    "FamilyUNet",
    "SimpleConv",
    "SmallUNet",
    "SmallUNetLess",
    "UNet",
    "UNetPlusPlus",
    "VGGUNet",
]
