"""Form ``conditional``: one half of the channels sets the attention weights, which mix the other half linearly.

    y = (x_2, x_1 + g),    g_i = sum_h W_h sum_j P_ij^h x_1j,    P = attention of b = B((x_2 - m) / a), row-stochastic

For fixed x_2 the map of x_1 is linear, and in the norm inf2 ``|P| = 1`` for every P, no matter how sharp. So

    Lip(x_1 -> g) <= max_h |W_h| = c   (grouped),     sum_h |W_h| = c   (shared)

is enough for invertibility: sharpness does not reduce the gain here. P is computed from x_2, which the output contains
unchanged. The halves are swapped, so that two successive blocks change all channels.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import (
    FixedPointResult,
    Roulette,
    Roundoff,
    branch_and_log_abs_det,
    branch_precision,
    cast_all,
    differentiable_copies,
    full_precision,
    gram_norm,
    local_lipschitz,
    max_token_norm,
    spectral_norm_bound,
    storage_error,
    transposed,
    twice_differentiable,
)
from ...ops.conditional_log_det import factorised_log_det, joint_log_det
from ...ops.log_det import series_coefficients
from ..certificate import Assessment, certified
from ..checks import check_contraction, check_features, check_precision, check_sharpness
from ..constant_weights import scaled_weights, started_weights, weights_of
from ..contract import InverseInfo, composed_error
from ..residual import ResidualLayer
from ..solve import Equation
from .attention import Attention, Mix
from .conditional_assessment import assess, series_error
from .heads import SMALL, build_heads
from .linear import GroupedLinear
from .modes import ScoreBounds
from .options import LocalAttentionOptions, read_options
from .saturation import saturated_share
from .sharpness import Sharpness
from .token_norm import NormWeights, TokenNorm


class ConditionalWeights(NamedTuple):
    """Weights of the branch.

    Attributes:
        scores: weights of the mode.
        bounds: bounds of the scores on the unit ball.
        sharpness: s if it is learned, else None.
        norm: m and a.
        weight: W_h, normalised to the contraction.
    """

    scores: Any
    bounds: ScoreBounds
    sharpness: Tensor | None
    norm: NormWeights
    weight: Tensor


class SizedWeights(NamedTuple):
    """The weights for maps of one size: scores scaled to the sharpness, and beta."""

    size: tuple[int, int]
    scores: Any
    beta: Any
    norm: NormWeights
    weight: Tensor


class ConditionalAttention2d(ResidualLayer):
    """Conditional-linear attention, (B, C, H, W) -> (B, C, H, W): certified for any sharpness.

    Every head reads all of x_2; with grouped heads each head mixes one group of x_1.

    Args:
        in_channels: C, even.
        contraction: bound c of the branch's Lipschitz constant in x_1, in (0, 1).
        sharpness: s, the largest content logit, which does not reduce the gain here: a number; ``'learned'``, one per
            head; or ``'log_n'``, ln(N)/2 for a feature map of N pixels.
        heads: ``'grouped'`` (each head mixes its own channel group) or ``'shared'`` (all heads mix all channels and
            share the contraction).
        precision: of the branch in the forward pass, ``'float32'`` or ``'autocast'``, as in
            :class:`~.certified.CertifiedAttention2d`.
        attention: the options of :class:`~.options.LocalAttentionOptions`: mode, reduction (of queries and keys),
            num_heads, bias, position, position_size, key_pooling, neighbourhood, window_size, window_shift.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.
    """

    # The branch is linear and its Lipschitz constant is close to the bound, so a longer memory saves iterations. With
    # half of the channels it takes no more space than a memory of 5 for all of them.
    memory = 10

    def __init__(
        self,
        in_channels: int,
        *,
        contraction: float = 0.9,
        sharpness: float | str = 2.0,
        heads: str = 'grouped',
        precision: str = 'float32',
        **attention: Any,
    ):
        super().__init__()
        options = read_options(type(self), LocalAttentionOptions, attention)
        options.check_halves(in_channels)
        check_contraction(contraction)
        check_sharpness(sharpness)
        check_precision(precision)
        self.precision = precision
        half, number = in_channels // 2, options.num_heads
        self.channels, self.contraction = in_channels, contraction
        self.heads = build_heads(heads, half, options)
        self.groups = self.heads.groups
        self.norm = TokenNorm(half)
        self.sharpness = Sharpness(sharpness, number)
        self.attention = Attention(options, half, max(half // options.reduction // number, 1), number)
        self.weight = GroupedLinear(self.heads.width, self.heads.width, number, bias=False)

    def start(self, x: Tensor) -> None:
        self.norm.start_from(_steering_tokens, x)

    def weights(self) -> ConditionalWeights:
        with full_precision(self.weight.weight.device):
            scores, weight = self.attention(False), self.weight()[0]  # the sharpness sets the scale of the scores
            total = self.total(gram_norm(weight))
            return ConditionalWeights(
                scores,
                self.attention.mode.bounds(scores, gram_norm),
                self.sharpness(),
                self.norm(),
                weight * (self.contraction * (1 - 64 * torch.finfo(weight.dtype).eps) / total.clamp(min=SMALL)),
            )

    def total(self, norm_H: Tensor) -> Tensor:
        """The sum of the norms for heads whose outputs are added, (1, 1, 1), or the norm of each group, (H, 1, 1)."""
        return (norm_H if self.groups > 1 or len(norm_H) == 1 else norm_H.sum(0, keepdim=True))[:, None, None]

    def _temperature(self, weights: ConditionalWeights, n_pixels: int) -> Tensor:
        """The temperature for this number of pixels, (H,)."""
        return self.sharpness.at(weights.sharpness, n_pixels, weights.weight) / weights.bounds.peak.clamp(min=SMALL)

    def _scaled(self, weights: ConditionalWeights, n_pixels: int) -> Any:
        """Scores scaled to the sharpness."""
        return self.attention.mode.scaled(weights.scores, self._temperature(weights, n_pixels))

    def for_size(self, weights: ConditionalWeights, size: tuple[int, int]) -> SizedWeights:
        return SizedWeights(
            size,
            scaled_weights(self, weights, size[0] * size[1], self._scaled),
            self.attention.logits(size, weights.weight),
            weights.norm,
            weights.weight,
        )

    def _mixer(self, z: Tensor, weights: SizedWeights) -> Mix:
        """P, computed from the half z, shape (B, C/2, H, W)."""
        b_B1NC = weights.norm.bounded(transposed(z.flatten(2))[:, None])
        return self.attention.mixer(weights.scores, b_B1NC, weights.size, weights.beta)

    def _mixed(self, x1: Tensor, mix: Mix, weight: Tensor) -> Tensor:
        """g as a map of x_1 for given P."""
        tokens_BGNC = self.heads.tokens(x1)
        o_BHNC = mix(tokens_BGNC.expand(-1, len(weight), -1, -1))
        return transposed(self.heads.merge(o_BHNC, weight)).reshape(x1.shape)

    def branch(self, x: Tensor, weights: SizedWeights) -> Tensor:
        """g(x), shape (B, C/2, H, W)."""
        x1, x2 = x.chunk(2, 1)
        return self._mixed(x1, self._mixer(x2, weights), weights.weight)

    def branch_bound(self, weights: ConditionalWeights, n: int | None) -> float:
        """``|W|`` in float64, rounded up. It bounds the branch as a function of x_1, for every number of pixels."""
        norms = self.total(spectral_norm_bound(weights.weight))
        return float(norms.max()) * (1 + 4 * torch.finfo(weights.weight.dtype).eps)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            wide, cast = self._widened(x, weights)
        with branch_precision(self.precision, x.device):
            x1, x2 = wide.chunk(2, 1)
            g = self._mixed(x1, self._mixer(x2, cast), cast.weight)
        return torch.cat([x2, x1 + g], 1).to(x.dtype)

    def equation(self, y: Tensor, weights: SizedWeights) -> Equation:
        """The equation for x_1, with P computed from x_2, which y contains unchanged."""
        x2, y1 = y.chunk(2, 1)
        mix = self._mixer(x2, weights)

        def branch(x1: Tensor, index: Tensor) -> Tensor:
            of_index = mix if len(index) == len(x2) else self._mixer(x2[index], weights)
            return self._mixed(x1, of_index, weights.weight)

        return Equation(
            branch,
            y1,
            self.token_norm,
            self.memory,
            part=lambda x: x.chunk(2, 1)[0],
            whole=lambda x1: torch.cat([x1, x2], 1),
        )

    def certified(
        self,
        x: Tensor,
        y: Tensor,
        error: Tensor,
        weights: ConditionalWeights,
        sized: SizedWeights,
        lipschitz: float | None,
        tol: float,
        solved: FixedPointResult,
    ) -> InverseInfo:
        """The report for x1, which is solved from y1; x2 is unchanged. An error of y also changes P."""
        u = self.roundoff(x.dtype)
        x1, y1 = x.double().chunk(2, 1)[0], y.chunk(2, 1)[1]
        seen = self.assess(x.double(), cast_all(sized, torch.float64), u)
        z, stored = x1 + seen.branch, storage_error(y1, x.dtype)
        residual, sums, kept = (max_token_norm(t, self.groups) for t in (y1.double() - z, z, stored))
        size, exact = torch.maximum(max_token_norm(x), max_token_norm(y)), torch.zeros_like(residual)
        info = certified(residual, u.sums * sums + kept, exact, size, seen, lipschitz, self.groups, tol, solved)
        return info._replace(error_bound=composed_error(self, x, info, error, weights))

    def assess(self, x: Tensor, weights: SizedWeights, u: Roundoff) -> Assessment:
        return assess(self, x, weights, u)

    def series_error(self, x: Tensor, weights: SizedWeights, lipschitz: Tensor, n_terms: int) -> Tensor:
        return series_error(self, x, weights, lipschitz, n_terms)

    @torch.no_grad()
    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        """An error e of y also changes P: ``|dP x_1| <= (G_1 + G_2) e / a |x_1|``, so

        |dx_1| <= (e + c (G_1 + G_2) e / a |x_1|) / (1 - c),     |dx_2| <= e
        """
        weights = weights_of(self, weights)
        temperature = self._temperature(weights, x.shape[2] * x.shape[3])
        slope = temperature * weights.bounds.query_slope + temperature * weights.bounds.key_slope
        slope = float(slope.max() / weights.norm.scale.min())
        lipschitz = self._bound(weights, None)
        if lipschitz is None or lipschitz >= 1:  # L may be rounded up to 1 if c is very close to it
            return torch.where(error == 0, error, torch.nan)
        x1 = max_token_norm(x[:, : self.channels // 2], self.groups) + within
        moved = self.groups**0.5 * error * (1 + lipschitz * slope * x1) / (1 - lipschitz)
        return torch.hypot(moved, error)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Uses the series of :mod:`~mmseg_invattn.ops.conditional_log_det`.

        Swapping the halves does not change the absolute value of the determinant. If ``n_samples`` is at least the
        number of pixels, the traces are exact. The map is linear in x_1, so the fused kernels are used, also for the
        gradient.
        """
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            wide, cast = self._widened(x, weights)
            x1, x2 = wide.chunk(2, 1)
            if isinstance(n_terms, str) and n_terms == 'exact':
                branch = self.branch_of(weights)

                def padded(x: Tensor) -> Tensor:  # x -> (g, 0): the output of the block without the swap, minus x
                    g = branch(x)
                    return torch.cat([g, torch.zeros_like(g)], 1)

                g, log_det = branch_and_log_abs_det(padded, wide, n_terms, n_samples)
                return torch.cat([x2, x1 + g.chunk(2, 1)[0]], 1).to(x.dtype), log_det
            coefficients = series_coefficients(n_terms, n_samples, lambda: self._bound(weights, None))
            mix = self._mixer(x2, cast)
            shape = (len(x), len(cast.weight), x.shape[2] * x.shape[3])
            series = factorised_log_det if self.groups == len(cast.weight) else joint_log_det
            log_det = series(mix, cast.weight, shape, coefficients, n_samples)
            return torch.cat([x2, x1 + self._mixed(x1, mix, cast.weight)], 1).to(x.dtype), log_det

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the tokens of x_2 that the ball saturates, shape (B,); see :func:`~.saturation.saturated_share`."""
        return saturated_share(self, x, lambda x, weights: weights.norm.bounded(_steering_tokens(x)))

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the Lipschitz constant of ``x_1 -> g`` at x, shape (B,)."""
        check_features(x, self.channels)
        with torch.inference_mode(False), full_precision(x.device), twice_differentiable():
            x, weights = self._widened(differentiable_copies(x), self.weights())
            x1, x2 = x.chunk(2, 1)
            mix = self._mixer(x2, weights)
            return local_lipschitz(lambda x1: self._mixed(x1, mix, weights.weight), x1, self.as_tokens)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``inf``: there are no bounds, because P depends on x_2 and mixes an x_1 of any size.

        See :meth:`inverse_error`.
        """
        return math.inf, math.inf

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.attention.options.mode!r}, contraction={self.contraction}'


def _steering_tokens(x: Tensor) -> Tensor:
    """x_2 as tokens, (B, 1, N, C/2)."""
    return transposed(x.chunk(2, 1)[1].flatten(2))[:, None]
