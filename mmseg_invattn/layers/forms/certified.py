"""Form ``certified``: a residual attention block with a proven contraction, so with a proven inverse.

    y = U (x + g(x)),    g(x)_i = a (gain W sum_j P_ij b_j) + bias,    b_i = B((x_i - m) / a)

B maps tokens into the unit ball, m and a are the normalisation, W = W_O W_V is the effective output matrix, U is
orthogonal (the identity for one head and for shared heads). With Lambda of the mode at the sharpness s,

    Lip(g) <= gain |W| Lambda(s) = c      in the norm max_i |x_i|_2, for every number of pixels,

and ``gain = c / (|W| Lambda(s))`` makes that the contraction c asked for.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Roulette, full_precision, gram_norm, residual_log_abs_det, spectral_norm_bound, transposed
from ..attention import Attention
from ..base import InverseInfo, InvertibleModule, branch_steepness, check_features, invert_residual
from ..derived import derived
from ..heads import HEADS, SMALL, HeadNorms
from ..linear import GroupedLinear, grouped_linear
from ..mixing import OrthogonalMix
from ..modes.base import ScoreBounds, as_dtype, wide
from ..sharpness import Sharpness
from ..spec import AttentionSpec
from ..token_norm import TokenNorm


class CertifiedWeights(NamedTuple):
    """Weights of the branch in float32 or higher, before sharpness and gain, with upper bounds of their norms."""
    scores: tuple
    bounds: ScoreBounds
    value: Tensor
    out: Tensor
    norms: HeadNorms
    bias: Tensor | None


class Certified(InvertibleModule):
    """Certified invertible attention.

    With ``heads='grouped'`` each head is an attention of its own with the full gain, and an orthogonal 1x1 convolution
    after the residual sum mixes the groups; heads that share their tokens lose up to a factor sqrt(heads) of gain.
    """

    def __init__(self, spec: AttentionSpec):
        super().__init__()
        self.heads = HEADS[spec.heads](spec.channels, spec)
        width, inter, heads = self.heads.width, self.heads.inter_channels, spec.num_heads
        self.channels, self.groups, self.contraction = spec.channels, self.heads.groups, spec.contraction
        self.norm = TokenNorm(width, self.groups)
        self.sharpness = Sharpness(spec.sharpness, heads)
        self.attention = Attention(spec, width, inter, heads, spec.bias)
        # A value bias would only add a constant: rows of P sum to 1.
        self.value = GroupedLinear(width, inter, heads, bias=False)
        self.out = GroupedLinear(inter, width, heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.groups, width)) if spec.bias else None
        self.mix = OrthogonalMix(spec.channels) if self.groups > 1 else None

    @derived
    def weights(self) -> CertifiedWeights:
        """What the branch needs and what does not depend on the number of pixels."""
        with full_precision(self.out.weight.device):
            out, value, bias = wide(self.out.weight), wide(self.value.weight), wide(self.bias)
            scores = as_dtype(self.attention.mode.weights())
            return CertifiedWeights(scores, self.attention.mode.bounds(scores, gram_norm), value, out,
                                    self.heads.norms(out, value, gram_norm), bias)

    def _at(self, weights: CertifiedWeights, n_pixels: int | None) -> tuple[tuple, Tensor]:
        """Scores at the sharpness, and the gain (H,) or (1,), both for so many pixels."""
        mode = self.attention.mode
        temperature = self.sharpness(n_pixels).to(weights.out.dtype) / weights.bounds.peak.clamp(min=SMALL)
        bounds = ScoreBounds(*(temperature * bound for bound in weights.bounds))
        factor = mode.lipschitz_factor(bounds, self.attention.whole(n_pixels))
        gain = self.contraction / self.heads.bound(weights.norms, factor).clamp(min=SMALL)
        return mode.scaled(weights.scores, temperature), gain

    def branch(self, x: Tensor, weights: CertifiedWeights) -> Tensor:
        """g(x), shape (B, C, H, W), in the dtype of the weights."""
        with full_precision(x.device):
            size = (x.shape[2], x.shape[3])
            scores, gain = self._at(weights, size[0] * size[1])
            b_BGNC = self.norm(self.heads.tokens(x.to(weights.out.dtype)))
            mix = self.attention.mixer(scores, b_BGNC, size)
            o_BHNE = mix(grouped_linear(b_BGNC, weights.value))
            g_BGNC = self.heads.merge(o_BHNE, weights.out * gain[:, None, None] * self.norm.scale())
            if weights.bias is not None:
                g_BGNC = g_BGNC + weights.bias[:, None]
            return transposed(g_BGNC).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        y = x + self.branch(x, self.weights()).to(x.dtype)
        return y if self.mix is None else self.mix(y)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        with full_precision(y.device):
            weights = self.weights()
            eps = torch.finfo(y.dtype).eps
            y = y.to(weights.out.dtype)
            y = y if self.mix is None else self.mix(y, transpose=True)
            return invert_residual(lambda x, index: self.branch(x, weights), y,
                                   self.lipschitz_bound(y.shape[2] * y.shape[3]), groups=self.groups, eps=eps, tol=tol,
                                   max_iter=max_iter, strict=strict)

    @torch.no_grad()
    @derived
    def lipschitz_bound(self, n: int | None = None) -> float:
        """``max gain |W| Lambda`` of the weights as the branch uses them, in float64 and rounded up.

        Args:
            n: number of pixels; None for a bound that holds for all of them. It makes a difference for
                ``sharpness='log_n'`` and for mode l2, whose gain follows the number of pixels.
        """
        weights = self.weights()
        eps = torch.finfo(weights.out.dtype).eps
        if n is None and (self.sharpness.depends_on_n or self._factor_depends_on_n()):
            # The gain is the contraction over upper bounds, rounding included: what is left is that of the division.
            return self.contraction * (1 + 64 * eps)
        scores, gain = self._at(weights, n)
        mode = self.attention.mode
        factor = mode.lipschitz_factor(mode.bounds(as_dtype(scores, torch.float64), spectral_norm_bound),
                                       self.attention.whole(n))
        norms = self.heads.norms(weights.out.double(), weights.value.double(), spectral_norm_bound)
        # out * gain is rounded once more where the branch multiplies.
        return float((gain.double() * self.heads.bound(norms, factor)).max()) * (1 + 4 * eps)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        # The certificate counts a channel group of a pixel as a token; a pixel has `groups` of them.
        forward, backward = super().bi_lipschitz_bound()
        return self.groups**0.5 * forward, self.groups**0.5 * backward

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        check_features(x, self.channels)
        # U is orthogonal: its logarithm is 0.
        return residual_log_abs_det(lambda x: self.branch(x, self.weights()).to(x.dtype), x, n_terms, n_samples,
                                    self.lipschitz_bound)

    def _factor_depends_on_n(self) -> bool:
        return self.attention.whole(1) is not None and self.attention.mode.factor_depends_on_n

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the branch's Lipschitz constant at x, shape (B,), to compare with the certificate."""
        check_features(x, self.channels)
        weights = self.weights()
        return branch_steepness(lambda x: self.branch(x, weights), x.to(weights.out.dtype), self.groups)

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the tokens whose bounded copy has a norm above 0.9, twice the radius or more before it, shape (B,).

        Such tokens differ in direction for the branch and hardly in size. Many of them: the normalisation no longer
        fits the features.
        """
        check_features(x, self.channels)
        b_BGNC = self.norm(self.heads.tokens(x.to(self.out.weight.dtype)), frozen=True)
        return (b_BGNC.norm(dim=-1) > 0.9).to(b_BGNC.dtype).mean((1, 2))
