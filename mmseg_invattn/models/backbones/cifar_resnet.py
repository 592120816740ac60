"""ResNet for images of 32 x 32 pixels: the baseline of the attention network."""

from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import nn


@MODELS.register_module()
class CifarResNet(ResNet):
    """ResNet of MMSegmentation with a stem of one 3x3 convolution of stride 1 and no pooling.

    Depth 18 has 11.2 million parameters with 10 classes. All arguments are those of ``ResNet``.
    """

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
