"""The branch of unconstrained attention: ``W_O sum_j P_ij W_V x_j``, used in the ordinary block and in couplings."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ops import EXACT, Roundoff, cast_all, max_token_norm, pixel_tokens, spectral_norm_bound
from .attention import Attention
from .linear import Bias, GroupedLinear, grouped_linear
from .local_bound import Moments, attention_moments, local_bound
from .options import AttentionOptions
from .rounding import attention_rounding


class OrdinaryWeights(NamedTuple):
    """Weights of the scores and of the value and output projections, in float32 or higher."""

    scores: Any
    value: Tensor
    value_bias: Tensor | None
    out: Tensor
    bias: Tensor | None


class OrdinaryBranch(nn.Module):
    """``W_O sum_j P_ij W_V x_j``; heads share the tokens and their outputs are added, as in multi-head attention.

    Args:
        channels: C of the feature map.
        options: of the attention.
        as_mmcv: as in mmcv: means instead of row-stochastic weights in the modes without a softmax, biases even where
            they have no effect, and mmcv's initialisation: small projections, and an output projection of zero, so that
            the block starts as the identity.
    """

    def __init__(self, channels: int, options: AttentionOptions, as_mmcv: bool):
        super().__init__()
        inter, heads = max(channels // options.reduction // options.num_heads, 1), options.num_heads
        self.attention = Attention(options, channels, inter, heads, inert_bias=as_mmcv)
        self.kernel = self.attention.mode.ordinary if as_mmcv else self.attention.mode.attend
        self.scaled = self.attention.mode.mmcv_scales or not as_mmcv
        self.value = GroupedLinear(channels, inter, heads, options.bias and as_mmcv)
        self.out = GroupedLinear(inter, channels, heads, bias=False)
        self.bias = Bias(channels) if options.bias else None
        if as_mmcv:
            for module in (*self.attention.mode.children(), self.value):
                nn.init.normal_(module.get_parameter('weight'), std=0.01)
            nn.init.zeros_(self.out.weight)

    def weights(self) -> OrdinaryWeights:
        bias = None if self.bias is None else self.bias()
        value, value_bias = self.value()
        return OrdinaryWeights(self.attention(self.scaled), value, value_bias, self.out()[0], bias)

    def forward(self, x: Tensor, weights: OrdinaryWeights | None = None) -> Tensor:
        # without given weights the branch uses the precision of its parameters, like ordinary layers
        weights = cast_all(self.weights(), self.out.weight.dtype) if weights is None else weights
        x_B1NC, size = pixel_tokens(x), (x.shape[2], x.shape[3])
        mix = self.attention.mixer(weights.scores, x_B1NC, size, self.attention.logits(size, x), self.kernel)
        v_BGNE = grouped_linear(x_B1NC, weights.value, weights.value_bias)
        g_BNC = grouped_linear(mix(v_BGNE), weights.out).sum(1)
        if weights.bias is not None:
            g_BNC = g_BNC + weights.bias
        return g_BNC.mT.reshape(x.shape)

    @torch.no_grad()
    def difference(
        self,
        x: Tensor,
        distance: Tensor,
        within: Tensor | float,
        weights: OrdinaryWeights,
        computed: Tensor | None = None,
        u: Roundoff = EXACT,
    ) -> Tensor:
        """Bound of ``|A(x'') - A(x')|_inf2`` for ``|x'' - x'|_inf2 <= distance`` and ``|x' - x|_inf2 <= within``, (B,).

        It is the smallest of three bounds, for row-stochastic weights and tokens in a ball of radius R:
        ``sum_h |W_O W_V|`` times the mode's Lambda in that ball and the distance; the bound of
        :func:`~.local_bound.local_bound` times the distance; and ``2 R sum_h |W_O W_V|``, the largest distance of two
        outputs, no matter how steep A is.

        Args:
            x: float64, shape (B, C, H, W).
            distance: shape (B,).
            within: shape (B,), or a number.
            weights: of the forward pass, in the dtype in which it computes.
            computed: A(x) as evaluated in that dtype. If given, the bound is between this and a computed A near x,
                whose rounding is bounded a priori. None bounds the difference of exact values of A.
            u: the rounding errors of these evaluations.
        """
        tokens_B1NC, size, mode = pixel_tokens(x), (x.shape[2], x.shape[3]), self.attention.mode
        reach = (distance + within)[:, None]
        radius = (max_token_norm(x)[:, None] + reach).clamp(min=torch.finfo(x.dtype).tiny)
        # beta as the forward pass computes it; then the exact map with exactly these numbers
        beta = cast_all(self.attention.logits(size, weights.out), torch.float64)
        weights = cast_all(weights, torch.float64)
        bounds = mode.bounds(weights.scores, spectral_norm_bound, radius)
        linear = weights.out @ weights.value
        effective = spectral_norm_bound(linear)
        slope = torch.maximum(bounds.query_slope, bounds.key_slope) / radius.square()
        moments = attention_moments(self.attention, weights.scores, tokens_B1NC, size, beta, weights.value, weights.out)
        local = local_bound(moments, effective, slope, reach.expand_as(slope))
        ball = effective * mode.lipschitz_factor(bounds, self.attention.whole(x[0, 0].numel()))
        steep = torch.minimum(local.sum(1).amax(1), ball.sum(1))
        moved = torch.minimum(steep * distance, 2 * (effective * radius).sum(1))
        if computed is None:
            return moved
        exact_BNC = moments.mean.sum(1) + (0 if weights.bias is None else weights.bias)
        here = max_token_norm(computed.double() - exact_BNC.mT.reshape(x.shape))
        return moved + here + self._rounding(tokens_B1NC, moments, reach, size, beta, weights, u)

    def _rounding(
        self,
        tokens_B1NC: Tensor,
        moments: Moments,
        reach: Tensor,
        size: tuple[int, int],
        beta: Any,
        weights: OrdinaryWeights,
        u: Roundoff,
    ) -> Tensor:
        """Bound of the rounding error of A, (B,)."""
        heads = attention_rounding(
            self.attention, weights.scores, weights.value, weights.out, tokens_B1NC, moments, reach, size, beta, u
        )
        written = torch.linalg.vector_norm(moments.mean, dim=-1).amax(-1).sum(1)
        bias = 0 if weights.bias is None else torch.linalg.vector_norm(weights.bias)
        return heads.sum(1) + u.any * (2 * written + bias)
