"""Heads: each on its own channel group, or all on the same tokens.

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

# Smaller norms are replaced by this, so that a division neither overflows nor gives 0 / 0. The bound still holds.
SMALL = 1e-20


class HeadNorms(NamedTuple):
    """Upper bounds of the spectral norms of the linear maps around the attention, shape (H,)."""

    effective: Tensor  # |W_O^h W_V^h|


class SharedHeadNorms(NamedTuple):
    """The same for heads that share their tokens."""

    effective: Tensor
    value: Tensor  # |W_V^h|
    out: Tensor  # |[W_O^1 ... W_O^H]|, shape (1,)


class GroupedHeads:
    """Head h reads and writes channel group h. The groups are independent, so each has the full gain.

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
        """Sets both so that all E singular values of ``W_O W_V`` that are not 0 are equal."""
        orthogonal_(value_HEC, out_HCE)

    def merge(self, o_BHNE: Tensor, out_HCE: Tensor) -> Tensor:
        """The output of the heads, (B, G, N, C)."""
        return grouped_linear(o_BHNE, out_HCE)

    @staticmethod
    def total(of_heads: Tensor) -> Tensor:
        """The joint output of heads from their outputs along dimension 1: one per group, or their sum."""
        return of_heads

    @staticmethod
    def norms(effective: Tensor, out_HCE: Tensor, value_HEC: Tensor, norm: Norm) -> HeadNorms | SharedHeadNorms:
        """All norms; ``effective`` holds those of ``W_O^h W_V^h``."""
        return HeadNorms(effective)

    @staticmethod
    def bound(norms: HeadNorms | SharedHeadNorms, factor_H: Tensor) -> Tensor:
        """``|W_O^h W_V^h| Lambda_h``, shape (H,): bound of each group's branch at gain 1."""
        return norms.effective * factor_H


class SharedHeads(GroupedHeads):
    """All heads read the same tokens and their outputs are added, as in ordinary multi-head attention.

    The branch is bounded by ``|W_O| sqrt(sum_h (|W_V^h| Lambda_h)^2)``. Compared with groups this loses up to a factor
    sqrt(H) of gain, and the loss is real, not a weakness of the bound. The triangle inequality gives a second bound,
    ``sum_h |W_O^h W_V^h| Lambda_h``, which is smaller if heads write to the same channels.
    """

    def __init__(self, channels: int, options: AttentionOptions):
        super().__init__(channels, options)
        self.groups, self.width = 1, channels

    @staticmethod
    def start(value_HEC: Tensor, out_HCE: Tensor) -> None:
        """As for groups, and the heads write to orthogonal subspaces of the channels."""
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
        """Bound of the whole branch at gain 1, shape (1,)."""
        joint = norms.out * (norms.value * factor_H).square().sum(-1, keepdim=True).clamp(min=SMALL**1.5).sqrt()
        return joint.minimum((norms.effective * factor_H).sum(-1, keepdim=True))


HEADS = {'grouped': GroupedHeads, 'shared': SharedHeads}


def build_heads(heads: str, channels: int, options: AttentionOptions) -> GroupedHeads:
    """Builds heads of the given kind.

    Raises:
        ValueError: an unknown kind, or shared heads if there is only one head.
    """
    check_choice('heads', heads, HEADS)
    if heads == 'shared' and options.num_heads == 1:
        check_takes('heads', heads, 'num_heads=1', 'several heads')
    return HEADS[heads](channels, options)
