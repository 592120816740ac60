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
    """The twin of MMSegmentation's ``DAHead``: position and channel attention side by side, three outputs and losses.

    Under ``form='none'`` the position attention is the ordinary non-local block and the channel attention DANet's own.
    Fu et al., Dual Attention Network, https://arxiv.org/abs/1809.02983.

    Args:
        attention: the position attention, see :class:`AttentionHead`.
        pam_channels: size of its queries, keys and values, a divisor of ``channels``, in place of its ``reduction``.
        channel_attention: config of the channel attention, without ``in_channels``: ``dict(contraction=0.9,
            sharpness=2.0)`` of ``InvChannelAttention``; for a position attention with an inverse.
        c1_in_channels: channels of ``inputs[0]``, from which a skip leads to the sum of both branches, as in
            :class:`~.inv_skip_head.InvSkipHead`; 0: there is none, as in DANet.
        c1_channels: channels that the skip is brought to.
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
        del self.pam, self.cam  # the attentions stand in their places
        self.decoder = None
        if c1_in_channels or c1_channels:
            self.decoder = SkipDecoder(
                self.channels, c1_in_channels, c1_channels, self.norm_cfg, self.act_cfg, self.align_corners
            )
        if isinstance(self.attention, InvertibleModule):
            self.channel_attention = InvChannelAttention(self.channels, **(channel_attention or {}))
        elif channel_attention is None:
            # the control without attention has none of either kind
            self.channel_attention = nn.Identity() if isinstance(self.attention, nn.Identity) else CAM()
        else:
            raise ValueError(
                f'channel_attention={channel_attention} configures the invertible channel attention, and '
                "the position attention has no inverse, which takes DANet's own: leave it out"
            )

    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.pam_in_conv(self._transform_inputs(inputs))

    def channel_attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> what the channel attention sees, (B, channels, H, W)."""
        return self.cam_in_conv(self._transform_inputs(inputs))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Multi-level features -> logits (B, num_classes, H, W) of the sum, of the position and the channel branch.

        Those of the sum have the size of the skip where there is one.
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
        """As :meth:`invert_attention`, of the channel attention.

        Its residuals and error bounds are in the norm of the channels, ``max_c |x_c|_2 / sqrt(H W)``.
        """
        return forward_and_back(self.channel_attention, self.channel_attention_input(inputs), tol, max_iter, strict)


def _with_size(attention: Mapping | Sequence[Mapping] | None, size: int, channels: int | None) -> dict:
    """The config of the position attention with the reduction that makes its queries ``size`` channels wide."""
    if size < 1 or not channels or channels % size:
        raise ValueError(f'pam_channels={size} does not divide channels={channels}: choose a divisor')
    reduction = channels // size
    if isinstance(attention, Sequence):
        raise ValueError(
            f'pam_channels={size} is the size of one block, and attention is a list: give each of its '
            f'configs reduction={reduction}'
        )
    attention = dict(attention or {})
    if attention.setdefault('reduction', reduction) != reduction:
        raise ValueError(
            f'pam_channels={size} asks for reduction={reduction}, and attention has reduction='
            f'{attention["reduction"]}: leave one of the two out'
        )
    return attention
