"""Invertible layers as plain ``nn.Module``: no import of mmcv, mmengine or mmseg."""
from .actnorm import ActNorm2d
from .base import InverseInfo, InvertibleModule, NotConvergedError, composed_error
from .channel_attention import InvChannelAttention, InvDualAttention
from .coupling import AdditiveCoupling, AffineCoupling
from .inv_conv1x1 import InvConv1x1
from .inv_conv_residual import InvConvResidual
from .inv_nonlocal import InvNonLocal2d
from .memory_free import MemoryFree
from .paper_weights import convert_paper_weights
from .relative_attention import InvRelativeAttention2d, RelativeSelfAttention2d, shift_error
from .sequential import InvertibleSequential
from .split import Split
from .squeeze import Squeeze
from .stack import InvAttentionStack

__all__ = [
    'ActNorm2d', 'AdditiveCoupling', 'AffineCoupling', 'InvAttentionStack', 'InvChannelAttention', 'InvConv1x1',
    'InvConvResidual', 'InvDualAttention', 'InvNonLocal2d', 'InvRelativeAttention2d', 'InverseInfo', 'InvertibleModule',
    'InvertibleSequential', 'MemoryFree', 'NotConvergedError', 'RelativeSelfAttention2d', 'Split', 'Squeeze',
    'composed_error', 'convert_paper_weights', 'shift_error'
]
