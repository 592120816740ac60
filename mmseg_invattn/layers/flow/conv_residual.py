"""Invertible residual block of convolutions, with a certificate that holds for every size of the feature map.

    y = x + g(x),    g = conv_n o phi o ... o phi o conv_1,    |phi'| <= 1

See Behrmann et al., https://arxiv.org/abs/1811.00995. At every pixel a convolution is the sum of ``W_tap h`` over its
taps, where h is the feature at one pixel (or 0 in the padding). For any positive numbers f_tap this is the matrix
``[W_tap / sqrt(f_tap)]``, with the taps side by side, times the vectors ``sqrt(f_tap) h``, stacked. So by the
Cauchy-Schwarz inequality its operator norm in ``|H|_inf2 = max_i |h_i|_2`` is at most

    |[W_tap / sqrt(f_tap)]|_2 sqrt(sum over the taps of f_tap),        f_tap = |W_tap|_F

for every height and width; a bound in the l2 norm from power iteration or Fourier transforms would hold only for the
size of the training crop. With ``f_tap = |W_tap|_2`` this would never exceed the sum of those norms over the taps, and
would be well below it for taps that differ in direction. Frobenius norms are almost as good, and then only one spectral
norm has to be computed, that of the whole matrix.

phi is LipSwish, ``h sigmoid(h) / 1.1`` (Chen et al., https://arxiv.org/abs/1906.02735), or ELU as in the i-ResNet. The
gradient of the log-determinant needs the second derivative of phi; that of LipSwish does not vanish where its slope is
close to 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import (
    Roundoff,
    full_precision,
    gram_norm,
    max_token_norm,
    root_of_squares,
    spectral_norm_bound,
    sum_rounding,
)
from ..certificate import Assessment
from ..checks import check_contraction, check_count, check_kernel_sizes
from ..parameters import given_out
from ..residual import ResidualLayer

# name -> phi; the largest slope of h sigmoid(h) is 1.09984, that of ELU 1
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {'LipSwish': lambda h: F.silu(h) / 1.1, 'ELU': F.elu}


def _swish_slope(h: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(h)
    return sigmoid * (1 + h * (1 - sigmoid)) / 1.1


# name -> phi', itself of slope at most 1
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {'LipSwish': _swish_slope, 'ELU': lambda h: h.clamp(max=0).exp()}


def conv_norm(weight_OIHW: Tensor, matrix_norm: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Upper bound of the norm of a convolution in inf2, for maps of every size, rounding included.

    Args:
        weight_OIHW: shape (..., O, I, H, W).
        matrix_norm: function that bounds the spectral norm from above; by default gram_norm, which has a gradient.
    """
    info = torch.finfo(weight_OIHW.dtype)
    f_HW = torch.linalg.vector_norm(weight_OIHW, dim=(-4, -3), keepdim=True).clamp(min=info.tiny)
    # the division rounds every number of the matrix, and the sum rounds every f
    rows, taps = weight_OIHW.shape[-4], weight_OIHW.shape[-2:].numel()
    rounding = info.eps * (4 * min(rows, weight_OIHW.shape[-3] * taps) ** 0.5 + 2 * taps + 8)
    norm = (matrix_norm or gram_norm)((weight_OIHW / f_HW.sqrt()).flatten(-3))
    return norm * f_HW.sum((-4, -3, -2, -1)).sqrt() * (1 + rounding)


def _division(weight: Tensor) -> float:
    """Bound of the relative change of the norm of W from rounding when W is divided by a number.

    Each number is rounded twice: ``|E|_2 <= |E|_F <= 2 eps |W|_F <= 2 eps sqrt(rank) |W|_2``.
    """
    rank = min(weight.shape[0], weight[0].numel())
    return torch.finfo(weight.dtype).eps * (2 * rank**0.5 + 4)


class ConvWeights(nn.Conv2d):
    """Weight and bias of a convolution. Calling the module returns (W, b) and does not evaluate the convolution."""

    bias: nn.Parameter

    def forward(self) -> tuple[Tensor, Tensor]:
        return given_out(self.weight), given_out(self.bias)


class BranchWeights(NamedTuple):
    """Weights as the branch uses them, and upper bounds of the norms of the stored convolutions."""

    convs: tuple[tuple[Tensor, Tensor], ...]
    norms: tuple[Tensor, ...]


class InvConvResidual(ResidualLayer):
    """Residual block of k x k convolutions that is a contraction by construction.

    Each of the n convolutions is scaled down to ``contraction**(1/n)`` if its bound exceeds that; smaller weights are
    not changed. So the product of the bounds never exceeds ``contraction``, in train and in eval mode.

    Args:
        channels: C.
        hidden_channels: channels between the convolutions; C by default.
        kernel_sizes: one odd number for each convolution.
        contraction: bound of the branch's Lipschitz constant, in (0, 1).
        activation: ``'LipSwish'`` or ``'ELU'``, between the convolutions.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        kernel_sizes: tuple[int, ...] = (3, 1, 3),
        contraction: float = 0.9,
        activation: str = 'LipSwish',
    ):
        super().__init__()
        check_contraction(contraction)
        check_kernel_sizes(kernel_sizes)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f'activation={activation!r} is unknown: choose one of {list(ACTIVATIONS)}, whose slope is at most 1'
            )
        hidden = channels if hidden_channels is None else hidden_channels
        for name, value in (('channels', channels), ('hidden_channels', hidden)):
            check_count(name, value)
        widths = [channels] + [hidden] * (len(kernel_sizes) - 1) + [channels]
        self.channels, self.contraction, self.activation = channels, contraction, activation
        convs = (ConvWeights(widths[i], widths[i + 1], k, padding=k // 2) for i, k in enumerate(kernel_sizes))
        # for the type checker: a ModuleList has no element type
        self.convs = cast(Sequence[ConvWeights], nn.ModuleList(convs))

    def weights(self) -> BranchWeights:
        with full_precision(self.convs[0].weight.device):
            stored = [conv() for conv in self.convs]
            norms = tuple(conv_norm(weight) for weight, _ in stored)
            return BranchWeights(
                tuple(
                    (weight * (share / norm).clamp(max=1), bias)
                    for (weight, bias), norm, share in zip(stored, norms, self._shares(stored), strict=True)
                ),
                norms,
            )

    def _shares(self, convs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """The contraction of each convolution, minus a margin for the rounding of the division by its norm."""
        return [self.contraction ** (1 / len(convs)) / (1 + _division(weight)) for weight, _ in convs]

    def branch(self, x: Tensor, weights: BranchWeights) -> Tensor:
        h = x
        for i, (weight, bias) in enumerate(weights.convs):
            h = ACTIVATIONS[self.activation](h) if i else h
            h = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)
        return h

    def branch_bound(self, weights: BranchWeights, n: int | None) -> float:
        """Product of the bounds of the convolutions as the branch uses them, rounded up.

        The norms are known from :meth:`weights`, so this costs almost nothing.
        """
        shares = self._shares(weights.convs)
        norms = [min(float(norm), share) for norm, share in zip(weights.norms, shares, strict=True)]
        return math.prod(norm * (1 + _division(weight)) for norm, (weight, _) in zip(norms, weights.convs, strict=True))

    def assess(self, x: Tensor, weights: BranchWeights, u: Roundoff) -> Assessment:
        """Goes through the convolutions one by one.

        Lipschitz constant: the product of the norms of the convolutions, where the columns of each channel are
        multiplied by the largest slope of phi around its arguments h. The arguments change by at most the reach times
        the Lipschitz constant of the layers before, and phi' changes by at most as much.

        Rounding: if its input has an error e and each output is a sum of n terms, the output of a convolution of norm K
        has the error

            (e')^2 = (K e)^2 + R(n, C)^2 max_i sum_k |W_:k|^2 h_ik^2

        and in addition ``u (2 |W h| + |b|) + 4 K u |phi(h)|`` for its sums and for phi. R is
        :func:`~mmseg_invattn.ops.sum_rounding`.
        """
        h, e, sums = x, torch.zeros(len(x), dtype=x.dtype, device=x.device), 0.0
        arguments, products = [], [sum_rounding(weight[0].numel(), len(weight), u.sums) for weight, _ in weights.convs]
        for i, (weight, bias) in enumerate(weights.convs):
            norm = (
                self._norm(weight, arguments[-1], torch.zeros_like(e)) if i else conv_norm(weight, spectral_norm_bound)
            )
            if i:
                h = ACTIVATIONS[self.activation](h)
                sums = sums + 4 * u.sums * max_token_norm(h)
            padding = weight.shape[-1] // 2
            terms = F.conv2d(h.square(), weight.square().sum(0, keepdim=True), padding=padding)
            e = root_of_squares(norm * e, products[i] * terms.flatten(1).amax(1).sqrt())
            h = F.conv2d(h, weight, bias, padding=padding)
            sums = norm * sums + u.sums * (2 * max_token_norm(h) + torch.linalg.vector_norm(bias))
            arguments.append(h)
        relative = sum(products) + 8 * u.sums * len(products)

        def lipschitz(reach: Tensor) -> Tensor:
            gain = conv_norm(weights.convs[0][0], spectral_norm_bound).expand_as(reach)
            for h, (weight, _) in zip(arguments, weights.convs[1:], strict=False):
                gain = gain * self._norm(weight, h, gain * reach)
            return gain

        return Assessment(h, lipschitz, lambda reach, _: e + sums + relative * reach)

    @property
    def rank(self) -> int:
        return min(conv.out_channels for conv in self.convs)

    def _norm(self, weight: Tensor, h: Tensor, moved: Tensor) -> Tensor:
        """Norm of phi followed by a convolution, for arguments of phi within ``moved`` of h, shape (B,)."""
        slope_BC = SLOPES[self.activation](h).abs().flatten(2).amax(2) + moved[:, None]
        return conv_norm(weight * slope_BC.clamp(max=1)[:, None, :, None, None], spectral_norm_bound)

    def extra_repr(self) -> str:
        return f'{self.channels}, contraction={self.contraction}, activation={self.activation}'
