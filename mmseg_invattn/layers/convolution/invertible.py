"""Invertible position-only attention, with a certificate. It includes convolutions as a special case.

    y_i = x_i + b + sum_h W_h sum_j P_ij^h x_j,      P^h from the positions alone

Rows of P are non-negative and sum to at most 1, so ``|P x|_inf2 <= |x|_inf2`` for every number of pixels, and

    Lip(g) <= sum_h |W_h|_2 = c < 1

is sufficient for invertibility, with any centres, widths and tables. The map is linear except for b. If the sum of the
``|W_h|_2`` is below c, the weights are not rescaled.

Shape suffixes: B batch, G heads, C channels, H and W rows and columns, N pixels, E value size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import (
    Roulette,
    Roundoff,
    full_precision,
    gram_norm,
    max_token_norm,
    product_rounding,
    spectral_norm_bound,
    sum_rounding,
)
from ...ops.conditional_log_det import joint_log_det
from ...ops.log_det import series_coefficients
from ..certificate import Assessment
from ..checks import check_contraction, check_count, check_features
from ..constant_weights import started_weights
from ..parameters import given_out
from ..residual import ResidualLayer
from .conversion import heads_from_conv, place_heads, width_for
from .encoding import build_encoding
from .mixing import PositionMixing


class BranchWeights(NamedTuple):
    """W_h scaled to the contraction and b, in float32 or higher; P for a given size."""

    weight: Tensor
    bias: Tensor
    positions: tuple[Tensor, ...] = ()


class InvRelativeAttention2d(ResidualLayer):
    """(B, C, H, W) -> (B, C, H, W), for any feature size.

    Args:
        in_channels: C.
        num_heads: G.
        padding: rows and columns of zeros around the map that are attended to as well, (rows, columns).
        contraction: c, in (0, 1).
        encoding: as for :func:`.encoding.build_encoding`.
        covariance: as for :func:`.encoding.build_encoding`.
        position_size: as for :func:`.encoding.build_encoding`.
        position_channels: as for :func:`.encoding.build_encoding`.

    Raises:
        ValueError: an argument breaks its rule.
    """

    memory = 10  # the branch is linear, so a longer memory of the acceleration saves iterations

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 9,
        *,
        padding: tuple[int, int] = (0, 0),
        contraction: float = 0.9,
        encoding: str | None = None,
        covariance: str | None = None,
        position_size: int | None = None,
        position_channels: int | None = None,
    ):
        super().__init__()
        for name, value in (('in_channels', in_channels), ('num_heads', num_heads)):
            check_count(name, value)
        check_contraction(contraction)
        self.channels, self.contraction = in_channels, contraction
        self.mixing = PositionMixing(
            build_encoding(num_heads, encoding, covariance, position_size, position_channels), (padding[0], padding[1])
        )
        self.weight = nn.Parameter(torch.randn(num_heads, in_channels, in_channels) * in_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(in_channels))

    def weights(self) -> BranchWeights:
        with full_precision(self.weight.device):
            weight = given_out(self.weight)
            total = gram_norm(weight).sum()
            most = self.contraction * (1 - 64 * torch.finfo(torch.float32).eps)  # so that the bound never exceeds c
            return BranchWeights(weight * (most / total).clamp(max=1), given_out(self.bias))

    def for_size(self, weights: BranchWeights, size: tuple[int, int]) -> BranchWeights:
        return weights._replace(positions=self.mixing.weights(size))

    def branch(self, x: Tensor, weights: BranchWeights) -> Tensor:
        linear = torch.einsum('bgchw,gdc->bdhw', self.mixing(x[:, None], weights.positions), weights.weight)
        return linear + weights.bias[:, None, None]

    def branch_bound(self, weights: BranchWeights, n: int | None) -> float:
        """``sum_h |W_h|_2`` in float64, rounded up, including the rounding of P; for every number of pixels."""
        weight = weights.weight
        return float(spectral_norm_bound(weight).sum()) * (1 + 16 * torch.finfo(torch.float32).eps)

    def assess(self, x: Tensor, weights: BranchWeights, u: Roundoff) -> Assessment:
        """The branch, its bound and its rounding.

        The rounding comes from sums over the pixels (over rows and then columns if P is separable) and then over
        ``C G`` products:

        u sum_h |W_h| sqrt(n) |x| + u sqrt(C G) max|W_:k| sqrt(G) |x| + u (|g| + |bias|)
        """
        g, n = self.branch(x, weights), sum(p.shape[-1] for p in weights.positions)
        norms = spectral_norm_bound(weights.weight)
        beside = weights.weight.transpose(0, 1).flatten(1)
        heads = len(norms) ** 0.5
        relative = max(sum_rounding(n, self.channels, u.sums), n * u.sums / 2) * float(norms.sum()) + heads * float(
            product_rounding(beside, u.sums)
        )
        size = max_token_norm(x)
        last = u.sums * (max_token_norm(g) + torch.linalg.vector_norm(weights.bias))
        bound = float(norms.sum()) * (1 + 16 * torch.finfo(torch.float32).eps)
        return Assessment(
            g,
            lambda reach: torch.full_like(reach, bound),
            lambda reach, _: relative * (size + reach) + last + u.sums * reach,
        )

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: BranchWeights | None = None
    ) -> tuple[Tensor, Tensor]:
        """``log|det J|`` is the same number for all images of one size.

        It uses the series of :func:`~mmseg_invattn.ops.conditional_log_det.joint_log_det`, whose memory does not depend
        on the number of terms. The map is linear, so the gradient of ``log|det J|`` in x is 0.
        """
        check_features(x, self.channels)
        if isinstance(n_terms, str) and n_terms == 'exact':
            return super().forward_and_log_abs_det(x, n_terms, n_samples, weights)
        weights = started_weights(self, x, weights)
        coefficients = series_coefficients(n_terms, n_samples, lambda: self._bound(weights, None))
        with full_precision(x.device):
            wide, cast = self._widened(x, weights)
            log_det = joint_log_det(
                self._value_mixer((x.shape[2], x.shape[3]), cast.positions),
                cast.weight,
                (len(x), len(cast.weight), x.shape[2] * x.shape[3]),
                coefficients,
                n_samples,
            )
            return (wide + self.branch(wide, cast)).to(x.dtype), log_det

    def _value_mixer(self, size: tuple[int, int], positions: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
        """P as a map of values (B, G, N, E), pixels row by row."""
        return lambda v: self.mixing(v.mT.unflatten(3, size), positions).flatten(3).mT

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        width: float | None = None,
        contraction: float = 0.9,
        whole: bool = False,
        rescale: bool = False,
    ) -> 'InvRelativeAttention2d':
        """Builds the block from a convolution, which becomes its branch or the whole block.

        Args:
            conv: see :meth:`.RelativeSelfAttention2d.from_conv2d`; it needs as many output as input channels.
            width: see :meth:`.RelativeSelfAttention2d.from_conv2d`.
            contraction: c.
            whole: True: ``y = conv(x)``, so the branch is the convolution minus the identity. False:
                ``y = x + conv(x)``.
            rescale: scale the branch down if its norm exceeds c, instead of raising an error.

        Raises:
            ValueError: a convolution that attention cannot express, or, without ``rescale``, whose taps have
                ``sum_h |W_h|_2`` above c.
        """
        if conv.in_channels != conv.out_channels or conv.stride != (1, 1):
            raise ValueError(
                f'the convolution maps {conv.in_channels} to {conv.out_channels} channels with stride '
                f'{conv.stride}; an invertible block keeps channels and size: use as many output as input channels, '
                'and stride 1'
            )
        centre_G2, weight_OGC, padding = heads_from_conv(conv)
        weight_GCC = torch.stack(
            [torch.block_diag(*tap.unflatten(0, (conv.groups, -1))) for tap in weight_OGC.unbind(1)]
        )
        if whole:
            weight_GCC[len(weight_GCC) // 2] -= torch.eye(conv.in_channels).to(weight_GCC)
        total = float(spectral_norm_bound(weight_GCC).sum())
        if total > contraction and not rescale:
            raise ValueError(
                f'the norms of the taps add up to {total:.4g}, above contraction={contraction}, so an inverse '
                'would not be guaranteed. Multiply the weights by '
                f'{contraction / total:.3g} or less, raise contraction (below 1), or pass rescale=True'
            )
        block = cls(conv.in_channels, len(weight_GCC), padding=padding, contraction=contraction).to(weight_GCC)
        place_heads(block.mixing, centre_G2, width_for(weight_GCC.dtype) if width is None else width)
        with torch.no_grad():
            block.weight.copy_(weight_GCC)
            if conv.bias is not None:
                block.bias.copy_(conv.bias)
        return block

    def extra_repr(self) -> str:
        return f'{self.channels}, num_heads={len(self.weight)}, contraction={self.contraction}'
