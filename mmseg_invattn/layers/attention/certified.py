"""Form ``certified``: a residual attention block that is proven to be a contraction and therefore invertible.

    y = U (x + g(x)),    g(x)_i = a (gain W sum_j P_ij b_j) + bias,    b_i = B((x_i - m) / a)

B maps tokens into the unit ball, m and a are the normalisation, W = W_O W_V is the effective output matrix, and U is
orthogonal (the identity for one head and for shared heads). With the factor Lambda of the mode at the sharpness s,

    Lip(g) <= gain |W| Lambda(s) = c      in the norm max_i |x_i|_2, for every number of pixels,

where ``gain = c / (|W| Lambda(s))`` is chosen so that the bound equals the requested contraction c.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Roundoff, cast_all, full_precision, gram_norm, max_token_norm, spectral_norm_bound, transposed
from ..certificate import Assessment
from ..checks import check_contraction, check_precision, check_sharpness
from ..constant_weights import scaled_weights
from ..orthogonal import OrthogonalMatrix
from ..parameters import given_out
from ..residual import ResidualLayer
from .attention import Attention
from .certified_assessment import Seen
from .heads import SMALL, HeadNorms, SharedHeadNorms, build_heads
from .linear import GroupedLinear, grouped_linear
from .modes import ScoreBounds
from .modes.base import product_norms
from .options import LocalAttentionOptions, read_options
from .saturation import saturated_share
from .sharpness import Sharpness
from .token_norm import NormWeights, TokenNorm


class CertifiedWeights(NamedTuple):
    """Weights of the branch, before sharpness and gain are applied, with upper bounds of their norms.

    Attributes:
        scores: weights of the mode.
        bounds: bounds of the scores on the unit ball.
        sharpness: s if it is learned, else None.
        norm: m and a.
        value: W_V of each head.
        out: W_O of each head.
        norms: norms of W_V, W_O and their products.
        bias: bias of the output.
        rotation: U.
    """

    scores: Any
    bounds: ScoreBounds
    sharpness: Tensor | None
    norm: NormWeights
    value: Tensor
    out: Tensor
    norms: HeadNorms | SharedHeadNorms
    bias: Tensor | None
    rotation: Tensor | None


class SizedWeights(NamedTuple):
    """The weights for maps of one size: scores scaled to the sharpness, beta, and W_O times gain and scale."""

    size: tuple[int, int]
    scores: Any
    beta: Any
    norm: NormWeights
    value: Tensor
    out: Tensor
    bias: Tensor | None
    rotation: Tensor | None


class CertifiedAttention2d(ResidualLayer):
    """Attention over the pixels of a feature map, (B, C, H, W) -> (B, C, H, W), that is invertible by construction.

    Args:
        in_channels: C.
        contraction: bound c of the branch's Lipschitz constant, in (0, 1). A value closer to 1 means a stronger branch
            and more iterations in the inverse.
        sharpness: s, the largest content logit: a number; ``'learned'``, one per head; or ``'log_n'``, ln(N)/2 for a
            feature map of N pixels. The gain of the branch is ``c / (s + sqrt(1 + s^2))`` for a softmax of inner
            products: 0.37, 0.21, 0.15 for s = 1, 2, 3 and c = 0.9.
        heads: ``'grouped'`` (each head has its own channel group with the full gain, and an orthogonal 1x1 convolution
            mixes the groups after the residual sum) or ``'shared'`` (all heads read the same tokens and share the gain,
            which loses up to a factor sqrt(heads)).
        precision: of the branch in the forward pass: ``'float32'``, whatever the settings of autocast and TF32, or
            ``'autocast'``: it follows these settings, and error bounds include the additional rounding.
        attention: the options of :class:`~.options.LocalAttentionOptions`: mode, reduction, num_heads, bias, position,
            position_size, key_pooling, neighbourhood, window_size, window_shift.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.

    Examples:
        >>> block = CertifiedAttention2d(8)
        >>> x = torch.randn(2, 8, 5, 7)
        >>> x_hat, info = block.inverse(block(x))
        >>> bool(((x_hat - x).norm(dim=1).amax((1, 2)) <= info.error_bound).all())
        True
    """

    def __init__(
        self,
        in_channels: int,
        *,
        contraction: float = 0.9,
        sharpness: float | str = 1.0,
        heads: str = 'grouped',
        precision: str = 'float32',
        **attention: Any,
    ):
        super().__init__()
        options = read_options(type(self), LocalAttentionOptions, attention)
        options.check_channels(in_channels)
        check_contraction(contraction)
        check_sharpness(sharpness)
        check_precision(precision)
        self.precision = precision
        self.heads = build_heads(heads, in_channels, options)
        width, inter, number = self.heads.width, self.heads.inter_channels, options.num_heads
        self.channels, self.groups, self.contraction = in_channels, self.heads.groups, contraction
        self.norm = TokenNorm(width, self.groups)
        self.sharpness = Sharpness(sharpness, number)
        self.attention = Attention(options, width, inter, number)
        # A value bias would only add a constant: rows of P sum to 1.
        self.value = GroupedLinear(width, inter, number, bias=False)
        self.out = GroupedLinear(inter, width, number, bias=False)
        self.heads.start(self.value.weight.data, self.out.weight.data)
        self.bias = nn.Parameter(torch.zeros(self.groups, width)) if options.bias else None
        self.mix = OrthogonalMatrix(in_channels) if self.groups > 1 else None

    def start(self, x: Tensor) -> None:
        self.norm.start_from(self.heads.tokens, x)

    def weights(self) -> CertifiedWeights:
        with full_precision(self.out.weight.device):
            # unscaled, because the sharpness sets the scale of the scores
            scores, value, out, mode = self.attention(False), self.value()[0], self.out()[0], self.attention.mode
            factors = [(out, value), mode.factors(scores)]
            effective, *product = product_norms([pair for pair in factors if pair is not None], gram_norm)
            return CertifiedWeights(
                scores,
                mode.bounds(scores, gram_norm, 1.0, *product),
                self.sharpness(),
                self.norm(),
                value,
                out,
                self.heads.norms(effective, out, value, gram_norm),
                None if self.bias is None else given_out(self.bias),
                None if self.mix is None else self.mix(),
            )

    def for_size(self, weights: CertifiedWeights, size: tuple[int, int]) -> SizedWeights:
        scores, out = scaled_weights(self, weights, size[0] * size[1], self._scaled)
        return SizedWeights(
            size,
            scores,
            self.attention.logits(size, weights.out),
            weights.norm,
            weights.value,
            out,
            weights.bias,
            weights.rotation,
        )

    def branch(self, x: Tensor, weights: SizedWeights) -> Tensor:
        b_BGNC = weights.norm.bounded(self.heads.tokens(x))
        mix = self.attention.mixer(weights.scores, b_BGNC, weights.size, weights.beta)
        g_BGNC = self.heads.merge(mix(grouped_linear(b_BGNC, weights.value)), weights.out)
        if weights.bias is not None:
            g_BGNC = g_BGNC + weights.bias[:, None]
        return transposed(g_BGNC).reshape(x.shape)

    def assess(self, x: Tensor, weights: SizedWeights, u: Roundoff) -> Assessment:
        """Uses the moments of the attention at x, with the values ``W_O W_V b`` in the units of the features."""
        seen = Seen(self, self.heads.tokens(x), weights, u)
        g_BGNC = self.heads.total(seen.moments.mean)
        if weights.bias is not None:
            g_BGNC = g_BGNC + weights.bias[:, None]
        g = transposed(g_BGNC).reshape(x.shape)
        return Assessment(g, seen.lipschitz, partial(seen.rounding, max_token_norm(g, self.groups)))

    @property
    def rank(self) -> int:
        return min(self.channels, self.value.weight.shape[:2].numel())

    def rotation(self, weights: CertifiedWeights | SizedWeights) -> Tensor | None:
        return weights.rotation

    def branch_bound(self, weights: CertifiedWeights, n: int | None) -> float:
        """``max gain |W| Lambda`` of the weights as the branch uses them, in float64 and rounded up."""
        eps = torch.finfo(weights.out.dtype).eps
        if n is None and (self.sharpness.depends_on_n or self._factor_depends_on_n()):
            return self.contraction
        scores, out = self._scaled(weights, n)
        mode = self.attention.mode
        factor = mode.lipschitz_factor(
            mode.bounds(cast_all(scores, torch.float64), spectral_norm_bound), self.attention.whole(n)
        )
        out = out.double() / weights.norm.scale.double()
        value = weights.value.double()
        effective = spectral_norm_bound(out, value)
        norms = self.heads.norms(effective, out, value, spectral_norm_bound)
        return float(self.heads.bound(norms, factor).max()) * (1 + 4 * eps)

    def _at(self, weights: CertifiedWeights, n_pixels: int | None) -> tuple[Any, Tensor]:
        """Scores scaled to the sharpness, and the gain, (H,) or (1,), both for this number of pixels."""
        mode = self.attention.mode
        sharpness = self.sharpness.at(weights.sharpness, n_pixels, weights.out)
        temperature = sharpness / weights.bounds.peak.clamp(min=SMALL)
        slopes = (temperature * slope for slope in weights.bounds[1:])
        bounds = ScoreBounds(sharpness, *slopes)
        factor = mode.lipschitz_factor(bounds, self.attention.whole(n_pixels))
        # a margin for the rounding of gain, W_O and the certificate itself, so that the bound never exceeds c
        room = 1 - 64 * torch.finfo(weights.out.dtype).eps
        gain = self.contraction * room / self.heads.bound(weights.norms, factor).clamp(min=SMALL)
        return mode.scaled(weights.scores, temperature), gain

    def _scaled(self, weights: CertifiedWeights, n_pixels: int | None) -> tuple[Any, Tensor]:
        """Scores scaled to the sharpness, and W_O times gain and scale, as the branch uses it.

        The certificate is computed from these rounded numbers: with ill-conditioned factors, the product may cancel
        differently after the scaling.
        """
        scores, gain = self._at(weights, n_pixels)
        return scores, weights.out * (gain[:, None, None] * weights.norm.scale)

    def _factor_depends_on_n(self) -> bool:
        return self.attention.whole(1) is not None and self.attention.mode.factor_depends_on_n

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the tokens that the ball saturates, shape (B,); see :func:`~.saturation.saturated_share`."""
        return saturated_share(self, x, lambda x, weights: weights.norm.bounded(self.heads.tokens(x)))

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.attention.options.mode!r}, contraction={self.contraction}'
