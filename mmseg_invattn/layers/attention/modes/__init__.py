"""Modes: ways in which pixels score each other. A mode is one file here and one line in ``MODES``.

A mode is a :class:`~.base.Mode` built as ``Mode(channels, inter_channels, groups, bias, key_bias)``.
"""

from .... import choices
from .base import Mode, ScoreBounds
from .concatenation import Concatenation
from .dot_product import DotProduct
from .embedded_gaussian import EmbeddedGaussian
from .gaussian import Gaussian
from .l2 import L2

MODES = {
    'gaussian': Gaussian,
    'embedded_gaussian': EmbeddedGaussian,
    'dot_product': DotProduct,
    'concatenation': Concatenation,
    'l2': L2,
}
assert tuple(MODES) == choices.MODES

__all__ = ['MODES', 'Concatenation', 'DotProduct', 'EmbeddedGaussian', 'Gaussian', 'L2', 'Mode', 'ScoreBounds']
