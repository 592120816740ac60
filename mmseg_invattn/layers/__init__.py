"""Invertible layers as plain ``nn.Module``. They import only torch.

contract.py    the interface and the guarantees of every invertible layer
residual.py    y = U (x + g(x)), the base class of all residual blocks;  explicit.py: layers with a closed-form inverse
attention/     a form is a class; a mode is the way in which pixels score each other
flow/          building blocks of flows and reversible networks
convolution/   attention by position alone; it is a convolution if each head selects one shift
"""

from .attention import (
    FORMS,
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    NonLocalAttention2d,
    PaperAttention2d,
    convert_paper_weights,
)
from .constant_weights import constant_weights
from .contract import InverseInfo, InvertibleModule, NotConvergedError, composed_error
from .convolution import InvRelativeAttention2d, RelativeSelfAttention2d, shift_error
from .explicit import ExplicitInverse
from .flow import (
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    ChannelExpansion,
    GridCoupling,
    GridDownsample,
    GridResidual,
    GridUpsample,
    InvConv1x1,
    InvConvResidual,
    InvertibleSkip,
    OrthogonalConv1x1,
    Split,
    Squeeze,
    ToGrid,
)
from .memory_free import MemoryFree
from .residual import ResidualLayer
from .sequential import InvertibleSequential

__all__ = [
    'FORMS',
    'ActNorm2d',
    'AdditiveCoupling',
    'AffineCoupling',
    'CertifiedAttention2d',
    'ChannelExpansion',
    'ConditionalAttention2d',
    'CouplingAttention2d',
    'ExplicitInverse',
    'GridCoupling',
    'GridDownsample',
    'GridResidual',
    'GridUpsample',
    'InvChannelAttention',
    'InvConv1x1',
    'InvConvResidual',
    'InvRelativeAttention2d',
    'InverseInfo',
    'InvertibleModule',
    'InvertibleSequential',
    'InvertibleSkip',
    'MemoryFree',
    'NonLocalAttention2d',
    'NotConvergedError',
    'OrthogonalConv1x1',
    'PaperAttention2d',
    'RelativeSelfAttention2d',
    'ResidualLayer',
    'Split',
    'Squeeze',
    'ToGrid',
    'composed_error',
    'constant_weights',
    'convert_paper_weights',
    'shift_error',
]
