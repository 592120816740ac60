"""Fully convolutional head with any number of successive invertible attention blocks."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor

from .attention_head import AttentionHead


@MODELS.register_module()
class InvFCNHead(AttentionHead, FCNHead):
    """MMSegmentation's ``FCNHead`` with attention: convolutions, attention, classifier.

    On a large map a single certified block cannot give much weight to a single distant pixel, but a few successive
    blocks can: ``num_blocks=3``.

    Args:
        kwargs: ``attention`` and ``num_blocks`` of :class:`AttentionHead`, and arguments of ``FCNHead``:
            ``num_convs`` (with 0 the attention reads the features of the backbone, and ``in_channels`` must equal
            ``channels``), ``kernel_size``, ``concat_input``, ``dilation`` and those of every head.
    """

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.convs(self._transform_inputs(inputs))

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features before the classifier, (B, channels, H, W)."""
        x = self._transform_inputs(inputs)
        output = self.attention(self.convs(x))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return output
