"""Form ``paper``: the block as published by its authors, kept for parity. It has no certificate and often no inverse.

Zha et al., Invertible Attention, https://arxiv.org/abs/2106.09003. f depends on the mode. The normaliser is a sum over
the index of the values, so keys have the role that queries have elsewhere:

    y_j = x_j + Gamma( sum_i e_ij V x_i ),    e_ij = f(q_i, k_j) / (1.5 sum_i f(q_i, k_j))

    gaussian           exp(x_i . x_j)             dot_product     ELU(q_i . k_j)
    embedded_gaussian  exp(q_i . k_j)             concatenation   ELU(w . [q_i ; k_j])

Q, K, V, w and Gamma have soft spectral normalisation by power iteration (coefficient 0.9; V of dot_product 0.5). Gamma
is a 1x1 convolution or the tanh of a number that starts at 0. These constants do not bound the Lipschitz constant of
the block: the argument for them omits the derivative of the attention weights, and the sum of ELU can be 0. Mode l2 is
not in the paper; it is built in the same way with exp(-|q_i - k_j|^2). The exponentials are computed by a softmax,
which does not overflow.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ops import full_precision, pixel_tokens
from ..checks import check_choice, check_precision
from ..parameters import given_out
from ..residual import ResidualLayer
from .attention import Attention
from .linear import GroupedLinear, grouped_linear
from .options import AttentionOptions, read_options
from .soft_spectral_norm import SoftSpectralLinear, iterate_all

FACTOR = 1.5


class PaperWeights(NamedTuple):
    """Weights of the branch.

    Attributes:
        scores: weights of the mode, normalised with the present u and v, with queries and keys exchanged.
        value: weight of the value projection, normalised in the same way.
        value_bias: bias of the value projection.
        gamma: weight of Gamma, normalised in the same way, or tanh of the number.
        gamma_bias: bias of Gamma.
        beta: position logits, for a given size.
    """

    scores: Any
    value: Tensor
    value_bias: Tensor | None
    gamma: Tensor
    gamma_bias: Tensor | None
    beta: Tensor | None = None


class PaperAttention2d(ResidualLayer):
    """Invertible attention as published, (B, C, H, W) -> (B, C, H, W); several heads are concatenated before Gamma.

    In training mode every forward pass runs five power iterations first. ``inverse`` runs none: it inverts the last
    forward pass. Its ``info.error_bound`` is NaN. If the iteration does not converge, it raises an error or reports
    that in ``info.converged``.

    Args:
        in_channels: C.
        gamma: ``'conv'``, or ``'scalar'`` for the tanh of a number that starts at 0.
        precision: of the branch in the forward pass, ``'float32'`` or ``'autocast'``.
        attention: the options of :class:`~.options.AttentionOptions`: mode, reduction (of queries and keys; 4 in the
            paper), num_heads, bias, position (only if the mode is a softmax), position_size, key_pooling.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.
    """

    def __init__(self, in_channels: int, *, gamma: str = 'conv', precision: str = 'float32', **attention: Any):
        super().__init__()
        options = read_options(type(self), AttentionOptions, attention)
        options.check_channels(in_channels)
        options.check_softmax()
        check_choice('gamma', gamma, ('conv', 'scalar'))
        check_precision(precision)
        self.precision = precision
        heads = options.num_heads
        self.channels = in_channels
        self.attention = Attention(
            options, in_channels, in_channels // options.reduction // heads, heads, inert_bias=True
        )
        mode = self.attention.mode
        self.value = GroupedLinear(in_channels, in_channels // heads, heads, options.bias)
        self.gamma = (
            GroupedLinear(in_channels, in_channels, 1, options.bias)
            if gamma == 'conv'
            else nn.Parameter(torch.zeros(1))
        )
        for name, coefficient in mode.paper_coefficients.items():
            setattr(mode, name, SoftSpectralLinear(getattr(mode, name), coefficient))
        self.value = SoftSpectralLinear(self.value, mode.paper_value_coefficient)
        if isinstance(self.gamma, GroupedLinear):
            self.gamma = SoftSpectralLinear(self.gamma, 0.9)

    def start(self, x: Tensor) -> None:
        if self.training:
            with full_precision(x.device):
                iterate_all(self)

    def weights(self) -> PaperWeights:
        gamma = self.gamma
        with full_precision(self.value.weight.device):
            last = gamma() if isinstance(gamma, GroupedLinear) else (torch.tanh(given_out(gamma)), None)
            return PaperWeights(self.attention(scaled=False).swapped(), *self.value(), *last)

    def for_size(self, weights: PaperWeights, size: tuple[int, int]) -> PaperWeights:
        return weights._replace(beta=self.attention.logits(size, weights.value))

    def branch(self, x: Tensor, weights: PaperWeights) -> Tensor:
        x_B1NC, size = pixel_tokens(x), (x.shape[2], x.shape[3])
        mix = self.attention.mixer(weights.scores, x_B1NC, size, weights.beta, self.attention.mode.paper)
        o_BHNE = mix(grouped_linear(x_B1NC, weights.value, weights.value_bias)) / FACTOR
        o_B1NC = o_BHNE.transpose(1, 2).flatten(2)[:, None]
        conv = weights.gamma.dim() == 3
        g_B1NC = grouped_linear(o_B1NC, weights.gamma, weights.gamma_bias) if conv else weights.gamma * o_B1NC
        return g_B1NC[:, 0].mT.reshape(x.shape)

    def branch_bound(self, weights: PaperWeights, n: int | None) -> None:
        """None: there is no certificate."""
        return None

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.attention.options.mode!r}'
