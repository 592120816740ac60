"""Form ``certified``: a residual attention block with a proven contraction, so with a proven inverse.

    y = U (x + g(x)),    g(x)_i = a (gain W sum_j P_ij b_j) + bias,    b_i = B((x_i - m) / a)

B maps tokens into the unit ball, m and a are the normalisation, ``W = W_O W_V / |W_O W_V|`` is the effective output
matrix, U is orthogonal (the identity for one head). With s the largest content logit,

    Lip(g) <= gain |W| (s + sqrt(1 + s^2)) = c      in the norm max_i |x_i|_2, for every number of pixels,

and ``gain = c / (s + sqrt(1 + s^2))`` makes that the contraction c asked for.
"""
import torch
from torch import Tensor, nn

from ...ops import Roulette, full_precision, gram_norm, residual_log_abs_det, spectral_norm_bound, to_ball
from ..base import InverseInfo, InvertibleModule, check_features, invert_residual
from ..linear import GroupedLinear, grouped_linear
from ..mixing import OrthogonalMix
from ..token_norm import TokenNorm


class Certified(InvertibleModule):
    """Certified invertible attention.

    Args:
        mode: class of the attention.
        channels: C of the feature map.
        reduction: channels of a head over the size of its queries, keys and values.
        num_heads: channel groups. Each is an attention of its own with the full gain, and an orthogonal 1x1
            convolution after the residual sum mixes them: heads that share their tokens would lose a factor
            sqrt(heads) of gain.
        contraction: c, in (0, 1).
        sharpness: s, the largest content logit.
    """

    def __init__(self, mode: type[nn.Module], channels: int, reduction: int, num_heads: int, contraction: float,
                 sharpness: float):
        super().__init__()
        width = channels // num_heads
        inter = width // reduction
        self.channels, self.num_heads, self.sharpness = channels, num_heads, sharpness
        self.gain = contraction / mode.lipschitz_factor(sharpness)
        self.norm = TokenNorm(width, num_heads)
        self.attention = mode(width, inter, num_heads)
        self.value = GroupedLinear(width, inter, num_heads, bias=False)
        self.out = GroupedLinear(inter, width, num_heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_heads, width))
        self.mix = OrthogonalMix(channels) if num_heads > 1 else None

    def weights(self) -> tuple:
        """Effective weights of the branch, in float32 or higher: (score weights, W_V, gain W_O / |W_O W_V|, bias)."""
        with torch.autocast(self.bias.device.type, enabled=False):
            out, value, bias = (w.to(torch.promote_types(w.dtype, torch.float32))
                                for w in (self.out.weight, self.value.weight, self.bias))
            out = out * (self.gain / gram_norm(out @ value))[:, None, None]
            return self.attention.certified_weights(self.sharpness), value, out, bias

    def branch(self, x: Tensor, weights: tuple) -> Tensor:
        """g(x), shape (B, C, H, W), in the dtype of the weights."""
        scores, value, out, bias = weights
        tokens_BGNC = x.to(bias.dtype).unflatten(1, (self.num_heads, -1)).flatten(3).mT
        b_BGNC = to_ball(self.norm(tokens_BGNC))
        o_BGNE = self.attention.attend(scores, b_BGNC, b_BGNC, grouped_linear(b_BGNC, value))
        g_BGNC = grouped_linear(o_BGNE, out) * self.norm.scale() + bias[:, None]
        return g_BGNC.mT.reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        with full_precision(x.device):  # the inverse has to meet the same branch
            y = x + self.branch(x, self.weights()).to(x.dtype)
            return y if self.mix is None else self.mix(y)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        with full_precision(y.device):
            weights = self.weights()
            eps = torch.finfo(y.dtype).eps
            y = y.to(self.bias.dtype if self.bias.dtype == torch.float64 else torch.float32)
            y = y if self.mix is None else self.mix(y, transpose=True)
            return invert_residual(lambda x, index: self.branch(x, weights), y, self.lipschitz_bound(),
                                   groups=self.num_heads, eps=eps, tol=tol, max_iter=max_iter, strict=strict)

    @torch.no_grad()
    def lipschitz_bound(self) -> float:
        """``max_heads gain |W| Lambda(s)`` of the weights as the branch uses them, in float64 and rounded up."""
        scores, value, out, _ = self.weights()
        sharpness = self.attention.sharpness_bound(scores)
        bound = spectral_norm_bound(out.double() @ value.double()) * self.attention.lipschitz_factor(sharpness)
        return float(bound.max())

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        # The certificate counts a channel group of a pixel as a token; a pixel has num_heads of them.
        forward, backward = super().bi_lipschitz_bound()
        return self.num_heads**0.5 * forward, self.num_heads**0.5 * backward

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        check_features(x, self.channels)
        # U is orthogonal: its logarithm is 0.
        return residual_log_abs_det(lambda x: self.branch(x, self.weights()), x, n_terms, n_samples,
                                    self.lipschitz_bound)
