"""Heads: on channel groups of their own, or all on the same tokens.

Shape suffixes: B batch, G groups of tokens, H heads, N pixels, C channels of a token, E value size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import transposed
from ..checks import check_choice, check_takes
from .linear import grouped_linear, orthogonal_
from .modes.base import Norm
from .options import AttentionOptions

SMALL = 1e-20  # norms below are taken for it: a division neither overflows nor makes 0 / 0, and the bound still holds


class HeadNorms(NamedTuple):
    """Upper bounds of the spectral norms of the linear maps around the attention, shape (H,)."""

    effective: Tensor  # |W_O^h W_V^h|


class SharedHeadNorms(NamedTuple):
    """The same where the heads share their tokens; the last has shape (1,)."""

    effective: Tensor
    value: Tensor  # |W_V^h|
    out: Tensor  # |[W_O^1 ... W_O^H]|


class GroupedHeads:
    """Head h reads and writes channel group h. Groups are blocks of their own: each has the full gain.

    Args:
        channels: C of the feature map.
        options: of the block.
    """

    def __init__(self, channels: int, options: AttentionOptions):
        self.groups = options.num_heads
        self.width = channels // options.num_heads
        self.inter_channels = self.width // options.reduction

    def tokens(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, G, N, C of a group)."""
        return transposed(x_BCHW.unflatten(1, (self.groups, -1)).flatten(3))

    @staticmethod
    def start(value_HEC: Tensor, out_HCE: Tensor) -> None:
        """Sets both so that ``W_O W_V`` is as large in every direction as it is in any, on E of its C channels."""
        orthogonal_(value_HEC, out_HCE)

    def merge(self, o_BHNE: Tensor, out_HCE: Tensor) -> Tensor:
        """What the heads write, (B, G, N, C)."""
        return grouped_linear(o_BHNE, out_HCE)

    @staticmethod
    def total(of_heads: Tensor) -> Tensor:
        """What the heads, one entry each of dimension 1, write together: each to its own group, or their sum."""
        return of_heads

    @staticmethod
    def norms(effective: Tensor, out_HCE: Tensor, value_HEC: Tensor, norm: Norm) -> HeadNorms | SharedHeadNorms:
        """All norms, those of ``W_O^h W_V^h`` being known."""
        return HeadNorms(effective)

    @staticmethod
    def bound(norms: HeadNorms | SharedHeadNorms, factor_H: Tensor) -> Tensor:
        """``|W_O^h W_V^h| Lambda_h``, shape (H,): bound of each group's branch at gain 1."""
        return norms.effective * factor_H


class SharedHeads(GroupedHeads):
    """All heads read the same tokens and their outputs add up: the branch of ordinary multi-head attention.

    ``|W_O| sqrt(sum_h (|W_V^h| Lambda_h)^2)``: a loss of up to sqrt(H) of gain that is real. The triangle inequality
    ``sum_h |W_O^h W_V^h| Lambda_h`` is the smaller bound where heads write to the same channels; both hold.
    """

    def __init__(self, channels: int, options: AttentionOptions):
        super().__init__(channels, options)
        self.groups, self.width = 1, channels

    @staticmethod
    def start(value_HEC: Tensor, out_HCE: Tensor) -> None:
        """As for groups, and the heads write to channels of their own."""
        side_by_side = torch.cat(out_HCE.unbind(), 1)[None]
        orthogonal_(value_HEC, side_by_side)
        out_HCE.copy_(torch.stack(side_by_side[0].chunk(len(out_HCE), 1)))

    def merge(self, o_BHNE: Tensor, out_HCE: Tensor) -> Tensor:
        return self.total(grouped_linear(o_BHNE, out_HCE))

    @staticmethod
    def total(of_heads: Tensor) -> Tensor:
        return of_heads.sum(1, keepdim=True)

    @staticmethod
    def norms(effective: Tensor, out_HCE: Tensor, value_HEC: Tensor, norm: Norm) -> SharedHeadNorms:
        side_by_side = torch.cat(out_HCE.unbind(), 1)
        return SharedHeadNorms(effective, norm(value_HEC), norm(side_by_side[None]))

    @staticmethod
    def bound(norms: SharedHeadNorms, factor_H: Tensor) -> Tensor:
        """Shape (1,): the heads are one branch."""
        joint = norms.out * (norms.value * factor_H).square().sum(-1, keepdim=True).clamp(min=SMALL**1.5).sqrt()
        return joint.minimum((norms.effective * factor_H).sum(-1, keepdim=True))


HEADS = {'grouped': GroupedHeads, 'shared': SharedHeads}


def build_heads(heads: str, channels: int, options: AttentionOptions) -> GroupedHeads:
    """Heads of that name.

    Raises:
        ValueError: an unknown name, or shared heads where there is one.
    """
    check_choice('heads', heads, HEADS)
    if heads == 'shared' and options.num_heads == 1:
        check_takes('heads', heads, 'num_heads=1', 'several heads')
    return HEADS[heads](channels, options)
