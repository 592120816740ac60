"""Invertible layers as plain ``nn.Module``: no import of mmcv, mmengine or mmseg."""
from .base import InverseInfo, InvertibleModule, NotConvergedError, composed_error
from .channel_attention import InvChannelAttention, InvDualAttention
from .inv_nonlocal import InvNonLocal2d
from .paper_weights import convert_paper_weights
from .stack import InvAttentionStack

__all__ = [
    'InvAttentionStack', 'InvChannelAttention', 'InvDualAttention', 'InvNonLocal2d', 'InverseInfo', 'InvertibleModule',
    'NotConvergedError', 'composed_error', 'convert_paper_weights'
]
