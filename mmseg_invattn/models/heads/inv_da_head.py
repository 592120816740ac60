"""Dual attention head whose two attentions can be inverted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.models.decode_heads import DAHead
from mmseg.models.decode_heads.da_head import CAM
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...layers import InvChannelAttention, InvertibleModule
from ..attention import AttentionInverse, forward_and_back
from .attention_head import AttentionHead
from .skip_decoder import SkipDecoder


@MODELS.register_module()
class InvDAHead(AttentionHead, DAHead):
    """MMSegmentation's ``DAHead`` with invertible position and channel attention in parallel; three outputs and losses.

    With ``form='none'`` the position attention is the ordinary non-local block and the channel attention that of DANet.
    Fu et al., Dual Attention Network, https://arxiv.org/abs/1809.02983.

    Args:
        attention: the position attention, see :class:`AttentionHead`.
        pam_channels: size of its queries, keys and values, a divisor of ``channels``, instead of its ``reduction``.
        channel_attention: config of the channel attention, without ``in_channels``: the arguments of
            ``InvChannelAttention``, such as ``dict(contraction=0.9, sharpness=2.0)``. Only if the position attention
            has an inverse.
        c1_in_channels: channels of ``inputs[0]``, from which a skip leads to the sum of both branches, as in
            :class:`~.inv_skip_head.InvSkipHead`; 0 means no skip, as in DANet.
        c1_channels: channels of the skip after its 1x1 convolution.
        kwargs: ``num_blocks`` of :class:`AttentionHead`, and arguments of every head.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        attention: Mapping | Sequence[Mapping] | None = None,
        pam_channels: int | None = None,
        channel_attention: Mapping | None = None,
        c1_in_channels: int = 0,
        c1_channels: int = 0,
        **kwargs: Any,
    ):
        if pam_channels is not None:
            attention = _with_size(attention, pam_channels, kwargs.get('channels'))
        super().__init__(attention=attention, pam_channels=1, **kwargs)
        del self.pam, self.cam  # replaced by the attentions of this class
        if self.out_channels != self.num_classes:  # one channel for two classes, which DANet's branches do not support
            self.pam_conv_seg, self.cam_conv_seg = (
                nn.Conv2d(self.channels, self.out_channels, kernel_size=1) for _ in range(2)
            )
        self.decoder = None
        if c1_in_channels or c1_channels:
            self.decoder = SkipDecoder(
                self.channels, c1_in_channels, c1_channels, self.norm_cfg, self.act_cfg, self.align_corners
            )
        if isinstance(self.attention, InvertibleModule):
            self.channel_attention = InvChannelAttention(self.channels, **(channel_attention or {}))
        elif channel_attention is None:
            # the control without position attention has no channel attention either
            self.channel_attention = nn.Identity() if isinstance(self.attention, nn.Identity) else CAM()
        else:
            raise ValueError(
                f'channel_attention={channel_attention} configures the invertible channel attention, but '
                "with a position attention without inverse DANet's own is used: leave channel_attention out"
            )

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.pam_in_conv(self._transform_inputs(inputs))

    def channel_attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> the input of the channel attention, (B, channels, H, W)."""
        return self.cam_in_conv(self._transform_inputs(inputs))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Multi-level features -> logits (B, num_classes, H, W) of the sum, the position and the channel branch.

        If there is a skip, the logits of the sum have its size.
        """
        x = self._transform_inputs(inputs)
        position = self.pam_out_conv(self.attention(self.pam_in_conv(x)))
        channel = self.cam_out_conv(self.channel_attention(self.cam_in_conv(x)))
        both = position + channel
        if self.decoder is not None:
            both = self.decoder(both, inputs[0])
        return self.cls_seg(both), self.pam_cls_seg(position), self.cam_cls_seg(channel)

    @torch.no_grad()
    def invert_channel_attention(
        self, inputs: Sequence[Tensor], tol: float = 1e-6, max_iter: int = 100, strict: bool = True
    ) -> AttentionInverse:
        """As :meth:`invert_attention`, for the channel attention.

        Its residuals and error bounds are in the norm of the channels, ``max_c |x_c|_2 / sqrt(H W)``.
        """
        return forward_and_back(self.channel_attention, self.channel_attention_input(inputs), tol, max_iter, strict)


def _with_size(attention: Mapping | Sequence[Mapping] | None, size: int, channels: int | None) -> dict:
    """The config of the position attention with the reduction for which its queries have ``size`` channels."""
    if size < 1 or not channels or channels % size:
        raise ValueError(f'pam_channels={size} does not divide channels={channels}: choose a divisor')
    reduction = channels // size
    if isinstance(attention, Sequence):
        raise ValueError(
            f'pam_channels={size} sets the size of a single block, but attention is a list: set '
            f'reduction={reduction} in each of its configs instead'
        )
    attention = dict(attention or {})
    if attention.setdefault('reduction', reduction) != reduction:
        raise ValueError(
            f'pam_channels={size} needs reduction={reduction}, but attention has reduction='
            f'{attention["reduction"]}: leave one of the two out'
        )
    return attention
