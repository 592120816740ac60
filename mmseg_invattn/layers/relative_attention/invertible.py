"""Invertible position-only attention: where a convolution is attention, and its inverse is certain.

    y_i = x_i + b + sum_h W_h sum_j P_ij^h x_j,      P^h from the positions alone

Rows of P are non-negative and sum to at most 1, so ``|P x|_inf2 <= |x|_inf2`` for every number of pixels, and

    Lip(g) <= sum_h |W_h|_2 = c < 1

is all that invertibility asks: centres, widths and tables are free. The map is linear but for b, and with
``|W_h|_2`` below c in sum the weights stay as they are.

Shape suffixes: B batch, G heads, C channels, H and W rows and columns, N pixels, E value size.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Roulette, at_least_float32, full_precision, gram_norm, residual_log_abs_det, spectral_norm_bound
from ...ops.conditional_log_det import joint_log_det
from ...ops.log_det import series_coefficients
from ..base import InverseInfo, InvertibleModule, check_features, invert_residual
from ..derived import derived
from ..spec import check_contraction, check_count
from .convolution import heads_from_conv, width_for
from .encoding import build_encoding
from .mixing import PositionMixing

# The branch is linear: a longer memory of the acceleration pays.
MEMORY = 10


class BranchWeights(NamedTuple):
    """W_h at the contraction and b, in float32 or higher."""
    weight: Tensor
    bias: Tensor


class InvRelativeAttention2d(InvertibleModule):
    """(B, C, H, W) -> (B, C, H, W), for any feature size.

    Args:
        in_channels: C.
        num_heads: G.
        encoding: ``'quadratic'`` or ``'learned_2d'``; see :mod:`.encoding`, as for the next three.
        covariance: of the quadratic encoding.
        position_size: of the learned one.
        position_channels: of the learned one.
        padding: zeros around the map that are attended to, (rows, columns).
        contraction: c, in (0, 1).

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, in_channels: int, num_heads: int = 9, encoding: str = 'quadratic', covariance: str = 'isotropic',
                 position_size: int = 16, position_channels: int = 400, padding: tuple[int, int] = (0, 0),
                 contraction: float = 0.9):
        super().__init__()
        for name, value in (('in_channels', in_channels), ('num_heads', num_heads),
                            ('position_size', position_size), ('position_channels', position_channels)):
            check_count(name, value)
        check_contraction(contraction)
        self.in_channels, self.contraction = in_channels, contraction
        self.mixing = PositionMixing(
            build_encoding(encoding, num_heads, covariance, position_size, position_channels), tuple(padding))
        self.weight = nn.Parameter(torch.randn(num_heads, in_channels, in_channels) * in_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(in_channels))

    @derived
    def weights(self) -> BranchWeights:
        with full_precision(self.weight.device):
            weight = at_least_float32(self.weight)
            total = gram_norm(weight).sum()
            return BranchWeights(weight * (self.contraction / total.clamp(min=self.contraction)),
                                 at_least_float32(self.bias))

    @derived
    def position_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """P of maps of this size."""
        return self.mixing.weights(size)

    def _mixed(self, x: Tensor, positions: tuple[Tensor, ...], weight_GCC: Tensor) -> Tensor:
        """The linear part of g."""
        return torch.einsum('bgchw,gdc->bdhw', self.mixing(x[:, None], positions), weight_GCC.to(x.dtype))

    def branch(self, x: Tensor, weights: BranchWeights) -> Tensor:
        """g(x), in the dtype of x (float32 or higher)."""
        linear = self._mixed(x, self.position_weights(tuple(x.shape[2:])), weights.weight)
        return linear + weights.bias.to(x.dtype)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.in_channels)
        with full_precision(x.device):
            wide = at_least_float32(x)
            return (wide + self.branch(wide, self.weights())).to(x.dtype)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.in_channels, finite=True)
        with full_precision(y.device):
            weights, wide = self.weights(), at_least_float32(y)
            # sums over C G products and a row and a column of pixels: as independent errors, the root of that many eps
            terms = self.in_channels * len(self.weight) + sum(y.shape[2:])
            return invert_residual(lambda x, index: self.branch(x, weights), wide, self.lipschitz_bound(), groups=1,
                                   eps=torch.finfo(y.dtype).eps, tol=tol, max_iter=max_iter, strict=strict,
                                   branch_eps=torch.finfo(wide.dtype).eps * terms**0.5, memory=MEMORY)

    @torch.no_grad()
    @derived
    def lipschitz_bound(self, n: int | None = None) -> float:
        """``sum_h |W_h|_2`` in float64, rounded up: the same for every number of pixels n."""
        weight = self.weights().weight
        return float(spectral_norm_bound(weight).sum()) * (1 + 4 * torch.finfo(weight.dtype).eps)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``log|det J|``, shape (B,): the same number for every image of a size.

        The series of :func:`~mmseg_invattn.ops.conditional_log_det.joint_log_det`, whose memory does not depend on the
        number of terms. The map is linear, so the gradient of x is 0.
        """
        check_features(x, self.in_channels)
        if isinstance(n_terms, str) and n_terms == 'exact':
            return residual_log_abs_det(lambda x: self.branch(x, self.weights()), x, n_terms, n_samples)
        coefficients = series_coefficients(n_terms, n_samples, self.lipschitz_bound)
        with full_precision(x.device):
            weight = self.weights().weight
            dtype = torch.promote_types(x.dtype, weight.dtype)
            return joint_log_det(self._value_mixer(tuple(x.shape[2:])), weight.to(dtype),
                                 (len(x), len(weight), x.shape[2] * x.shape[3]), coefficients, n_samples)

    def _value_mixer(self, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """P as a map of values (B, G, N, E), pixels row by row."""
        positions = self.position_weights(size)
        return lambda v: self.mixing(v.mT.unflatten(3, size), positions).flatten(3).mT

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, width: float | None = None, contraction: float = 0.9, whole: bool = False,
                    rescale: bool = False) -> 'InvRelativeAttention2d':
        """The block whose branch is a convolution, or that is one.

        Args:
            conv: see :meth:`.RelativeSelfAttention2d.from_conv2d`, also for ``width``; as many channels out as in.
            contraction: c.
            whole: ``y = conv(x)``: the branch is the convolution less the identity. Else ``y = x + conv(x)``.
            rescale: multiply the branch by what it takes where its norm exceeds c, instead of refusing it.

        Raises:
            ValueError: a convolution that attention cannot express, or whose taps have ``sum_h |W_h|_2`` above c.
        """
        if conv.in_channels != conv.out_channels or conv.stride != (1, 1):
            raise ValueError(f'the convolution maps {conv.in_channels} to {conv.out_channels} channels with stride '
                             f'{conv.stride}; an invertible block keeps both: it takes as many channels out as in, '
                             'and stride 1')
        centre_G2, weight_OGC, padding = heads_from_conv(conv)
        weight_GCC = torch.stack([torch.block_diag(*tap.unflatten(0, (conv.groups, -1))) for tap in
                                  weight_OGC.unbind(1)])
        if whole:
            weight_GCC[len(weight_GCC) // 2] -= torch.eye(conv.in_channels).to(weight_GCC)
        total = float(spectral_norm_bound(weight_GCC).sum())
        if total > contraction and not rescale:
            raise ValueError(f'the norms of the taps add up to {total:.4g}, above contraction={contraction}: the '
                             'block would not be certain to have an inverse. Multiply the weights by '
                             f'{contraction / total:.3g} or less, raise contraction (below 1), or pass rescale=True')
        block = cls(conv.in_channels, len(weight_GCC), padding=padding, contraction=contraction).to(weight_GCC)
        with torch.no_grad():
            block.mixing.encoding.centre.copy_(centre_G2)
            block.mixing.encoding.root.fill_((2 * (width_for(weight_GCC.dtype) if width is None else width))**0.5)
            block.weight.copy_(weight_GCC)
            if conv.bias is not None:
                block.bias.copy_(conv.bias)
        return block

    def extra_repr(self) -> str:
        return f'{self.in_channels}, num_heads={len(self.weight)}, contraction={self.contraction}'
