"""Non-local head with an attention block that can be inverted."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor

from .attention_head import AttentionHead


@MODELS.register_module()
class InvNLHead(AttentionHead, FCNHead):
    """MMSegmentation's ``NLHead`` with invertible attention: convolution, attention, convolution, classifier.

    Wang et al., Non-local Neural Networks, https://arxiv.org/abs/1711.07971.

    Args:
        kwargs: ``attention`` and ``num_blocks`` of :class:`AttentionHead`, and arguments of ``FCNHead`` except
            ``num_convs``.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(num_convs=2, **kwargs)

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.convs[0](self._transform_inputs(inputs))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> logits (B, num_classes, H, W)."""
        x = self._transform_inputs(inputs)
        output = self.convs[1](self.attention(self.convs[0](x)))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return self.cls_seg(output)
