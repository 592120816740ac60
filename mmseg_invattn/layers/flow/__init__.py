"""Building blocks of reversible networks and flows.

Normalisation, 1x1 convolutions, squeeze, split, couplings, and the residual convolution.
"""

from .actnorm import ActNorm2d
from .conv_residual import InvConvResidual
from .coupling import AdditiveCoupling, AffineCoupling
from .expansion import ChannelExpansion
from .grid import GridCoupling, ToGrid
from .grid_resampling import GridDownsample, GridUpsample
from .grid_residual import GridResidual
from .inv_conv1x1 import InvConv1x1
from .orthogonal_conv1x1 import OrthogonalConv1x1
from .skip import InvertibleSkip
from .split import Split
from .squeeze import Squeeze

__all__ = [
    'ActNorm2d',
    'AdditiveCoupling',
    'AffineCoupling',
    'ChannelExpansion',
    'GridCoupling',
    'GridDownsample',
    'GridResidual',
    'GridUpsample',
    'InvConv1x1',
    'InvConvResidual',
    'InvertibleSkip',
    'OrthogonalConv1x1',
    'Split',
    'Squeeze',
    'ToGrid',
]
