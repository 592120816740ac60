"""Form ``paper``: the block as its authors publish it, kept for parity. It is not certified, and often not invertible.

Zha et al., Invertible Attention, https://arxiv.org/abs/2106.09003. With f of the mode, and the sum of the normaliser
over the index of the values, so that keys do what queries do elsewhere:

    y_j = x_j + Gamma( sum_i e_ij V x_i ),    e_ij = f(q_i, k_j) / (1.5 sum_i f(q_i, k_j))

    gaussian           exp(x_i . x_j)             dot_product     ELU(q_i . k_j)
    embedded_gaussian  exp(q_i . k_j)             concatenation   ELU(w . [q_i ; k_j])

Q, K, V, w and Gamma have soft spectral normalisation by power iteration (coefficient 0.9; V of dot_product 0.5), Gamma
is a 1x1 convolution or tanh of a number that starts at 0. These constants do not bound the block's Lipschitz constant:
the derivative of the weights is missing from that argument, and the sum of ELU can vanish. Mode l2 is not in the paper:
it is built by the same recipe with exp(-|q_i - k_j|^2). The exponentials are taken in a softmax, which does not
overflow.
"""
import torch
from torch import Tensor, nn

from ...ops import Roulette, full_precision, recomputing, residual_log_abs_det
from ..attention import Attention
from ..base import InverseInfo, InvertibleModule, branch_steepness, check_features, invert_residual
from ..linear import GroupedLinear, grouped_linear
from ..modes.base import as_dtype, wide
from ..soft_spectral_norm import iterate_all, soften
from ..spec import AttentionSpec
from .ordinary import refuse_parts

FACTOR = 1.5


class Paper(InvertibleModule):
    """Invertible attention as published; several heads are concatenated before Gamma.

    In training mode every forward pass takes five power iterations first. ``inverse`` takes none: it inverts the last
    forward pass. Its ``info.error_bound`` is NaN, and it raises or says so where the iteration does not converge.
    """

    def __init__(self, spec: AttentionSpec):
        super().__init__()
        refuse_parts(spec)
        channels, heads = spec.channels, spec.num_heads
        self.channels = channels
        self.attention = Attention(spec, channels, channels // spec.reduction // heads, heads, spec.bias,
                                   inert_bias=True)
        mode = self.attention.mode
        self.value = GroupedLinear(channels, channels // heads, heads, spec.bias)
        self.gamma = GroupedLinear(channels, channels, 1, spec.bias) if spec.gamma == 'conv' else nn.Parameter(
            torch.zeros(1))
        for name, coefficient in mode.paper_coefficients.items():
            soften(getattr(mode, name), coefficient)
        soften(self.value, mode.paper_value_coefficient)
        if spec.gamma == 'conv':
            soften(self.gamma, 0.9)

    def weights(self) -> tuple:
        """(scores, V, its bias, Gamma or tanh of the number, its bias), as normalised by the u and v of now."""
        value, gamma = self.value, self.gamma
        with full_precision(value.parametrizations.weight.original.device):
            last = (gamma.weight, gamma.bias) if isinstance(gamma, GroupedLinear) else (torch.tanh(gamma), None)
            scores = self.attention.mode.weights(scaled=False)
            return as_dtype(scores), *(wide(w) for w in (value.weight, value.bias, *last))

    def branch(self, x: Tensor, weights: tuple) -> Tensor:
        """g(x), shape (B, C, H, W), in the dtype of the weights."""
        with full_precision(x.device):
            scores, value, value_bias, gamma, gamma_bias = weights
            x_B1NC = x.to(value.dtype).flatten(2).mT[:, None]
            mix = self.attention.mixer(scores.swapped(), x_B1NC, (x.shape[2], x.shape[3]), self.attention.mode.paper)
            o_BHNE = mix(grouped_linear(x_B1NC, value, value_bias)) / FACTOR
            o_B1NC = o_BHNE.transpose(1, 2).flatten(2)[:, None]
            g_B1NC = grouped_linear(o_B1NC, gamma, gamma_bias) if gamma.dim() == 3 else gamma * o_B1NC
            return g_B1NC[:, 0].mT.reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        with full_precision(x.device):
            if self.training and not recomputing():
                iterate_all(self)
            return x + self.branch(x, self.weights()).to(x.dtype)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        weights = self.weights()
        eps = torch.finfo(y.dtype).eps
        with full_precision(y.device):
            return invert_residual(lambda x, index: self.branch(x, weights), y.to(weights[1].dtype), None, groups=1,
                                   eps=eps, tol=tol, max_iter=max_iter, strict=strict)

    def lipschitz_bound(self, n: int | None = None) -> None:
        """None: there is no certificate."""
        return None

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """Of the last forward pass, as the inverse. The series has no bound here and may diverge; ``'exact'`` is."""
        check_features(x, self.channels)
        return residual_log_abs_det(lambda x: self.branch(x, self.weights()).to(x.dtype), x, n_terms, n_samples)

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the branch's Lipschitz constant at x, shape (B,); often far above 1."""
        check_features(x, self.channels)
        weights = self.weights()
        return branch_steepness(lambda x: self.branch(x, weights), x.to(weights[1].dtype))
