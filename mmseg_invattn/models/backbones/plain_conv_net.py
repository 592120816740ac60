"""A small strided CNN whose receptive field is known."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class PlainConvNet(BaseModule):
    """3x3 convolutions with ReLU and no normalisation: an output depends only on its :attr:`receptive_field`.

    (Group norm and layer norm depend on the whole image, and batch norm in training on the whole batch. With them a
    network without attention could still detect a distant marker.)

    Args:
        in_channels: channels of the image.
        channels: channels of every layer.
        strides: stride of each layer.
        init_cfg: as in every ``BaseModule``.
    """

    def __init__(
        self, in_channels: int = 3, channels: int = 48, strides: Sequence[int] = (2, 2), init_cfg: dict | None = None
    ):
        super().__init__(init_cfg)
        widths = [in_channels, *[channels] * len(strides)]
        self.layers = nn.Sequential(
            *(
                ConvModule(c_in, c_out, 3, stride=stride, padding=1)
                for c_in, c_out, stride in zip(widths, widths[1:], strides, strict=False)
            )
        )
        self.receptive_field, jump = 1, 1
        for stride in strides:
            self.receptive_field += 2 * jump
            jump *= stride

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(B, C, H, W) -> one feature map, (B, channels, H / s, W / s) with s the product of the strides."""
        return (self.layers(x),)
