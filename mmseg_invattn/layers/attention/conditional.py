"""Form ``conditional``: one half of the channels decides who attends to whom, the other half is mixed, linearly.

    y = (x_2, x_1 + g),    g_i = sum_h W_h sum_j P_ij^h x_1j,    P = attention of b = B((x_2 - m) / a), row-stochastic

Given x_2 the map of x_1 is linear, and in the norm inf2 ``|P| = 1`` for every P however sharp. So

    Lip(x_1 -> g) <= max_h |W_h| = c   (grouped),     sum_h |W_h| = c   (shared)

is all that invertibility needs: sharpness costs no gain here. P comes from x_2, which the output holds unchanged. The
halves swap places, so that two blocks in a row change all channels.
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
from ..checks import check_contraction, check_precision, check_sharpness
from ..constant_weights import scaled_weights, started_weights, weights_of
from ..contract import InverseInfo, check_features, composed_error
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
    """Weights of the scores with upper bounds of them on the unit ball, s where it is learned, m and a, and W_h
    normalised to the contraction."""

    scores: Any
    bounds: ScoreBounds
    sharpness: Tensor | None
    norm: NormWeights
    weight: Tensor


class SizedWeights(NamedTuple):
    """What the branch needs on maps of one size: scores at the sharpness, and beta."""

    size: tuple[int, int]
    scores: Any
    beta: Any
    norm: NormWeights
    weight: Tensor


class ConditionalAttention2d(ResidualLayer):
    """Conditional-linear attention, (B, C, H, W) -> (B, C, H, W): certified at any sharpness.

    Every head reads all of x_2; with grouped heads each mixes a group of x_1.

    Args:
        in_channels: C, even.
        contraction: bound c of the branch's Lipschitz constant in x_1, in (0, 1).
        sharpness: s, the largest content logit, free of cost here: a number; ``'learned'``, one a head; or ``'log_n'``,
            ln(N)/2 for the N pixels at hand.
        heads: ``'grouped'`` (each head mixes a channel group of its own) or ``'shared'`` (all mix all channels and
            share the contraction).
        precision: of the branch in the forward pass, ``'float32'`` or ``'autocast'``, as in
            :class:`~.certified.CertifiedAttention2d`.
        attention: those of :class:`~.options.LocalAttentionOptions`: mode, reduction, num_heads, bias, position,
            position_size, key_pooling, neighbourhood, window_size, window_shift. ``reduction`` is of queries and keys.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.
    """

    # The branch is linear and as steep as its bound: a longer memory pays. On half of the channels it takes no more
    # room.
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
            scores, weight = self.attention(), self.weight()[0]
            total = self.total(gram_norm(weight))
            return ConditionalWeights(
                scores,
                self.attention.mode.bounds(scores, gram_norm),
                self.sharpness(),
                self.norm(),
                weight * (self.contraction * (1 - 64 * torch.finfo(weight.dtype).eps) / total.clamp(min=SMALL)),
            )

    def total(self, norm_H: Tensor) -> Tensor:
        """The norms of heads that add up, (1, 1, 1), or of each group, (H, 1, 1)."""
        return (norm_H if self.groups > 1 or len(norm_H) == 1 else norm_H.sum(0, keepdim=True))[:, None, None]

    def _temperature(self, weights: ConditionalWeights, n_pixels: int) -> Tensor:
        """For so many pixels, (H,)."""
        return self.sharpness.at(weights.sharpness, n_pixels, weights.weight) / weights.bounds.peak.clamp(min=SMALL)

    def _scaled(self, weights: ConditionalWeights, n_pixels: int) -> Any:
        """Scores at the sharpness."""
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
        """P of the half z, shape (B, C/2, H, W)."""
        b_B1NC = weights.norm.bounded(transposed(z.flatten(2))[:, None])
        return self.attention.mixer(weights.scores, b_B1NC, weights.size, weights.beta)

    def _mixed(self, x1: Tensor, mix: Mix, weight: Tensor) -> Tensor:
        """g as a map of x_1 with P given."""
        tokens_BGNC = self.heads.tokens(x1)
        o_BHNC = mix(tokens_BGNC.expand(-1, len(weight), -1, -1))
        return transposed(self.heads.merge(o_BHNC, weight)).reshape(x1.shape)

    def branch(self, x: Tensor, weights: SizedWeights) -> Tensor:
        """g(x), shape (B, C/2, H, W)."""
        x1, x2 = x.chunk(2, 1)
        return self._mixed(x1, self._mixer(x2, weights), weights.weight)

    def branch_bound(self, weights: ConditionalWeights, n: int | None) -> float:
        """``|W|`` in float64, rounded up: the bound of the branch in x_1, for every number of pixels."""
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
        """Of x_1, with P of the x_2 that passed."""
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
        """The report of what y1 alone decides, x1; x2 passed as it was. An error of y moves P as well."""
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
        """An error e of y moves P as well: ``|dP x_1| <= (G_1 + G_2) e / a |x_1|``, so

        |dx_1| <= (e + c (G_1 + G_2) e / a |x_1|) / (1 - c),     |dx_2| <= e
        """
        weights = weights_of(self, weights)
        temperature = self._temperature(weights, x.shape[2] * x.shape[3])
        slope = temperature * weights.bounds.query_slope + temperature * weights.bounds.key_slope
        slope = float(slope.max() / weights.norm.scale.min())
        lipschitz = self._bound(weights, None)
        if lipschitz is None or lipschitz >= 1:  # a contraction within a rounding error of 1 certifies nothing
            return torch.where(error == 0, error, torch.nan)
        x1 = max_token_norm(x[:, : self.channels // 2], self.groups) + within
        moved = self.groups**0.5 * error * (1 + lipschitz * slope * x1) / (1 - lipschitz)
        return torch.hypot(moved, error)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor, Tensor]:
        """By the series of :mod:`~mmseg_invattn.ops.conditional_log_det`.

        The sign of swapping the halves does not count. Exact traces where ``n_samples`` reaches the pixels. The map is
        linear in what it mixes, so the fused kernels serve, in the gradient too.
        """
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            wide, cast = self._widened(x, weights)
            x1, x2 = wide.chunk(2, 1)
            if isinstance(n_terms, str) and n_terms == 'exact':
                branch = self.branch_of(weights)

                def padded(x: Tensor) -> Tensor:  # x -> (g, 0): the output of the block but for the swap, less x
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
        """Neither is bounded: P moves with x_2 and mixes an x_1 of any size. See :meth:`inverse_error`."""
        return math.inf, math.inf

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.attention.options.mode!r}, contraction={self.contraction}'


def _steering_tokens(x: Tensor) -> Tensor:
    """x_2 as tokens, (B, 1, N, C/2)."""
    return transposed(x.chunk(2, 1)[1].flatten(2))[:, None]
