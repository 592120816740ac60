"""Heads of DeepLabV3 and DeepLabV3+ with an attention block that can be inverted."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads import ASPPHead, DepthwiseSeparableASPPHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from .attention_head import AttentionHead


@MODELS.register_module()
class InvASPPHead(AttentionHead, ASPPHead):
    """MMSegmentation's ``ASPPHead`` with attention: dilated convolutions, their fusion, attention, classifier.

    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, https://arxiv.org/abs/1706.05587.

    Args:
        kwargs: ``attention`` and ``num_blocks`` of :class:`AttentionHead`, and arguments of ``ASPPHead``.
    """

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return super()._forward_feature(inputs)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features before the classifier, (B, channels, H, W)."""
        return self.attention(self.attention_input(inputs))


@MODELS.register_module()
class InvDepthwiseSeparableASPPHead(AttentionHead, DepthwiseSeparableASPPHead):
    """MMSegmentation's ``DepthwiseSeparableASPPHead`` with attention on the fused ASPP features.

    After the attention come the skip from the first stage, two separable convolutions and the classifier. Chen et al.,
    Encoder-Decoder with Atrous Separable Convolution, https://arxiv.org/abs/1802.02611.

    Args:
        c1_in_channels: channels of ``inputs[0]``, the skip; 0 means no skip.
        c1_channels: channels of the skip after its 1x1 convolution; without effect if there is no skip.
        kwargs: ``attention`` and ``num_blocks`` of :class:`AttentionHead`, and arguments of ``ASPPHead``.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, c1_in_channels: int, c1_channels: int, **kwargs: Any):
        if c1_in_channels < 0:
            raise ValueError(
                f'c1_in_channels={c1_in_channels} is negative: give the channels of the first stage, or 0 '
                'for a head without a skip'
            )
        # The convolutions after the attention expect c1_channels of the skip even if there is none; so set it to 0.
        super().__init__(c1_in_channels=c1_in_channels, c1_channels=c1_channels if c1_in_channels else 0, **kwargs)

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self._forward_feature(inputs)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> logits (B, num_classes, H, W), with the size of the skip."""
        output = self.attention(self.attention_input(inputs))
        if self.c1_bottleneck is not None:
            skip = self.c1_bottleneck(inputs[0])
            output = resize(output, size=skip.shape[2:], mode='bilinear', align_corners=self.align_corners)
            output = torch.cat([output, skip], dim=1)
        return self.cls_seg(self.sep_bottleneck(output))
