"""Head with attention on coarse features and a skip from finer ones."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.registry import MODELS
from torch import Tensor

from .attention_head import AttentionHead
from .skip_decoder import SkipDecoder


@MODELS.register_module()
class InvSkipHead(AttentionHead):
    """Convolution, attention, skip from the first features, classifier: DeepLabV3+ with attention instead of ASPP.

    Attention works on coarse features with few pixels, while the logits have the size of the skip, so that edges stay
    sharp. ``num_blocks=0`` is the control without attention.

    Args:
        c1_in_channels: channels of ``inputs[0]``, the skip.
        c1_channels: channels of the skip after its 1x1 convolution.
        kernel_size: of the convolution before the attention, odd.
        kwargs: arguments of :class:`AttentionHead` and of every head.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, c1_in_channels: int, c1_channels: int, kernel_size: int = 3, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = ConvModule(
            self.in_channels,
            self.channels,
            kernel_size,
            padding=kernel_size // 2,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        self.decoder = SkipDecoder(
            self.channels, c1_in_channels, c1_channels, self.norm_cfg, self.act_cfg, self.align_corners
        )

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.conv(self._transform_inputs(inputs))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> logits (B, num_classes, H, W), with the size of the skip."""
        return self.cls_seg(self.decoder(self.attention(self.attention_input(inputs)), inputs[0]))
