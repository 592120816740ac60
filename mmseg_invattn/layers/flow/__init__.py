"""Building blocks of reversible networks and flows.

Normalisation, 1x1 convolutions, squeeze, split, couplings, and the residual convolution.
"""

from .actnorm import ActNorm2d
from .conv_residual import InvConvResidual
from .coupling import AdditiveCoupling, AffineCoupling
from .grid import GridCoupling, ToGrid
from .inv_conv1x1 import InvConv1x1
from .orthogonal_conv1x1 import OrthogonalConv1x1
from .split import Split
from .squeeze import Squeeze

__all__ = [
    'ActNorm2d',
    'AdditiveCoupling',
    'AffineCoupling',
    'GridCoupling',
    'InvConv1x1',
    'InvConvResidual',
    'OrthogonalConv1x1',
    'Split',
    'Squeeze',
    'ToGrid',
]
