"""The decoder of DeepLabV3+: it combines coarse features with finer ones of an earlier stage."""

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmseg.models.utils import resize
from torch import Tensor


class SkipDecoder(BaseModule):
    """``y = conv([upsample(x); reduce(skip)])`` with a separable 3x3 convolution.

    Chen et al., Encoder-Decoder with Atrous Separable Convolution, https://arxiv.org/abs/1802.02611.

    Args:
        channels: channels of x and of y.
        c1_in_channels: channels of the skip.
        c1_channels: channels of the skip after its 1x1 convolution.
        norm_cfg: config of the norm layers.
        act_cfg: config of the activations.
        align_corners: of the upsampling.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        channels: int,
        c1_in_channels: int,
        c1_channels: int,
        norm_cfg: dict | None,
        act_cfg: dict | None,
        align_corners: bool,
    ):
        super().__init__()
        if min(c1_in_channels, c1_channels) < 1:
            raise ValueError(
                f'c1_in_channels={c1_in_channels} and c1_channels={c1_channels} must both be positive: give the number '
                'of channels of inputs[0], and that of the skip after its 1x1 convolution, such as 32'
            )
        self.align_corners = align_corners
        self.reduce = ConvModule(c1_in_channels, c1_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv = DepthwiseSeparableConvModule(
            channels + c1_channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w), (B, c1_in_channels, H, W) -> (B, channels, H, W)."""
        x = resize(x, size=skip.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return self.conv(torch.cat([x, self.reduce(skip)], dim=1))
