"""Pyramid pooling head with an attention block that can be inverted."""

from collections.abc import Sequence

from mmseg.models.decode_heads import PSPHead
from mmseg.registry import MODELS
from torch import Tensor

from .attention_head import AttentionHead


@MODELS.register_module()
class InvPSPHead(AttentionHead, PSPHead):
    """MMSegmentation's ``PSPHead`` with attention: pyramid pooling, bottleneck, attention, classifier.

    Zhao et al., Pyramid Scene Parsing Network, https://arxiv.org/abs/1612.01105.

    Args:
        kwargs: ``attention`` and ``num_blocks`` of :class:`AttentionHead`, and arguments of ``PSPHead``.
    """

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return super()._forward_feature(inputs)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features before the classifier, (B, channels, H, W)."""
        return self.attention(self.attention_input(inputs))
