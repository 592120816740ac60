"""Invertible residual block of convolutions (Behrmann et al., https://arxiv.org/abs/1811.00995), with a certificate
that holds for every size of the feature map.

    y = x + g(x),    g = conv_n o phi o ... o phi o conv_1,    |phi'| <= 1

A convolution adds, at every pixel, ``W_tap h`` over its taps, each at one pixel (or at none, in the padding). For any
positive numbers f_tap it is ``[W_tap / sqrt(f_tap)]``, the taps side by side, times the ``sqrt(f_tap) h`` one below the
other, so by Cauchy and Schwarz its operator norm in ``|H|_inf2 = max_i |h_i|_2`` is at most

    |[W_tap / sqrt(f_tap)]|_2 sqrt(sum over the taps of f_tap),        f_tap = |W_tap|_F

whatever height and width; a bound in the norm l2 by power iteration or Fourier would be one of the training crop's.
With ``f_tap = |W_tap|_2`` this is never above the sum of those norms over the taps, and for taps that differ in
direction well below it; Frobenius norms keep most of that, and leave one matrix of which to find the spectral norm.

phi is LipSwish, ``h sigmoid(h) / 1.1`` (Chen et al., https://arxiv.org/abs/1906.02735), whose second derivative, which
the gradient of the log-determinant needs, does not vanish where its slope is largest; or the i-ResNet's ELU.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import full_precision, gram_norm
from ..checks import check_contraction, check_count, check_kernel_sizes
from ..parameters import given_out
from ..residual import ResidualLayer, Roundings

# name -> phi; the largest slope of h sigmoid(h) is 1.09984, that of ELU 1
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {'LipSwish': lambda h: F.silu(h) / 1.1, 'ELU': F.elu}


def conv_norm(weight_OIHW: Tensor) -> Tensor:
    """Upper bound of the norm of a convolution in inf2, for maps of every size, rounding included."""
    info = torch.finfo(weight_OIHW.dtype)
    f_HW = torch.linalg.vector_norm(weight_OIHW, dim=(0, 1)).clamp(min=info.tiny)
    # dividing rounds every number of the matrix, summing every f
    rounding = info.eps * (4 * min(weight_OIHW.shape[0], weight_OIHW[0].numel()) ** 0.5 + 2 * f_HW.numel() + 8)
    return gram_norm((weight_OIHW / f_HW.sqrt()).flatten(1)) * f_HW.sum().sqrt() * (1 + rounding)


class ConvWeights(nn.Conv2d):
    """The weight and bias of a convolution that others evaluate: calling the module gives (W, b)."""

    bias: nn.Parameter

    def forward(self) -> tuple[Tensor, Tensor]:
        return given_out(self.weight), given_out(self.bias)


class BranchWeights(NamedTuple):
    """Weights as the branch uses them, and upper bounds of the norms of the convolutions as they are stored."""

    convs: tuple[tuple[Tensor, Tensor], ...]
    norms: tuple[Tensor, ...]


class InvConvResidual(ResidualLayer):
    """Residual block of k x k convolutions that is a contraction by construction.

    Each convolution is divided by its bound where that exceeds ``contraction**(1/n)``, so the product never exceeds
    ``contraction``, in train and eval mode alike, and weights that are smaller stay as they are.

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
                f'activation={activation!r} is not one of {list(ACTIVATIONS)}, those whose slope is at most 1'
            )
        hidden = channels if hidden_channels is None else hidden_channels
        for name, value in (('channels', channels), ('hidden_channels', hidden)):
            check_count(name, value)
        widths = [channels] + [hidden] * (len(kernel_sizes) - 1) + [channels]
        self.channels, self.contraction, self.activation = channels, contraction, activation
        convs = (ConvWeights(widths[i], widths[i + 1], k, padding=k // 2) for i, k in enumerate(kernel_sizes))
        # a ModuleList does not say what it is a list of
        self.convs = cast(Sequence[ConvWeights], nn.ModuleList(convs))

    @property
    def share(self) -> float:
        """The contraction of one convolution."""
        return self.contraction ** (1 / len(self.convs))

    def weights(self) -> BranchWeights:
        with full_precision(self.convs[0].weight.device):
            stored = [conv() for conv in self.convs]
            norms = tuple(conv_norm(weight) for weight, _ in stored)
            return BranchWeights(
                tuple(
                    (weight * (self.share / norm.clamp(min=self.share)), bias)
                    for (weight, bias), norm in zip(stored, norms, strict=True)
                ),
                norms,
            )

    def branch(self, x: Tensor, weights: BranchWeights) -> Tensor:
        h = x
        for i, (weight, bias) in enumerate(weights.convs):
            h = ACTIVATIONS[self.activation](h) if i else h
            h = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)
        return h

    def branch_bound(self, weights: BranchWeights, n: int | None) -> float:
        """Product of the convolutions' bounds as the branch uses them, rounded up.

        It costs nothing beyond the weights. A convolution that was divided has its share, up to the rounding of the
        division.
        """
        norms = torch.stack(weights.norms)
        product = float(norms.double().clamp(max=self.share).prod())
        # each number of W was rounded twice: |E|_2 <= |E|_F <= 2 eps |W|_F <= 2 eps sqrt(rank) |W|_2
        ranks = [min(weight.shape[0], weight[0].numel()) for weight, _ in weights.convs]
        return product * (1 + torch.finfo(norms.dtype).eps * sum(2 * rank**0.5 + 4 for rank in ranks))

    def roundings(self, weights: BranchWeights, size: tuple[int, int]) -> Roundings:
        # a convolution sums fan_in products for every number: as independent errors, the root of that many eps
        fan_in = max(weight[0].numel() for weight, _ in weights.convs)
        return Roundings(bound=4 * fan_in**0.5)

    def extra_repr(self) -> str:
        return f'{self.channels}, contraction={self.contraction}, activation={self.activation}'
