"""Blocks of couplings on a grid, as in RevNet (Gomez et al., https://arxiv.org/abs/1707.04585).

y1 = x1 + F(x2),    y2 = x2 + G(y1)          inverse    x2 = y2 - G(y1),    x1 = y1 - F(x2)
"""

from collections.abc import Sequence
from math import gcd

from torch import nn

from ...layers import CouplingAttention2d, GridCoupling, InvertibleModule


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of 16 channels, or of the largest number that divides both 16 and the channels."""
    return nn.GroupNorm(channels // gcd(channels, 16), channels)


def residual_branch(channels: int, hidden: int, kernel_sizes: Sequence[int]) -> nn.Sequential:
    """Group normalisation, ReLU and convolution, once for each kernel size."""
    widths = [channels, *[hidden] * (len(kernel_sizes) - 1), channels]
    layers = []
    for c_in, c_out, kernel in zip(widths, widths[1:], kernel_sizes, strict=False):
        layers += [group_norm(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)]
    return nn.Sequential(*layers)


def coupling_blocks(channels: int, count: int, hidden: int, kernel_sizes: Sequence[int]) -> list[InvertibleModule]:
    """Blocks whose branches F and G are residual branches of convolutions, for an even number of channels."""
    branches = [[residual_branch(channels // 2, hidden, kernel_sizes) for _ in range(2)] for _ in range(count)]
    return [layer for f, g in branches for layer in _block(channels, f, g)]


def coupled_attention(layer: CouplingAttention2d, channels: int) -> list[InvertibleModule]:
    """The branches of an attention in form ``'coupling'``, each after a normalisation like those of convolutions."""
    first, second = (nn.Sequential(group_norm(channels // 2), part) for part in (layer.first, layer.second))
    return _block(channels, first, second)


def _block(channels: int, f: nn.Module, g: nn.Module) -> list[InvertibleModule]:
    return [GridCoupling(channels, f, swap=True), GridCoupling(channels, g)]
