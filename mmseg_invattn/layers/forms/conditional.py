"""Form ``conditional``: one half of the channels decides who attends to whom, the other half is mixed, linearly.

    y = (x_2, x_1 + g),    g_i = sum_h W_h sum_j P_ij^h x_1j,    P = attention of b = B((x_2 - m) / a), row-stochastic

Given x_2 the map of x_1 is linear, and in the norm inf2 ``|P| = 1`` for every P however sharp. So

    Lip(x_1 -> g) <= max_h |W_h| = c   (grouped),     sum_h |W_h| = c   (shared)

is all that invertibility needs: sharpness costs no gain here. P comes from x_2, which the output holds unchanged. The
halves swap places, so that two blocks in a row change all channels.
"""
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import (
    Roulette,
    full_precision,
    gram_norm,
    max_token_norm,
    residual_log_abs_det,
    spectral_norm_bound,
    transposed,
    twice_differentiable,
)
from ...ops.conditional_log_det import factorised_log_det, joint_log_det
from ...ops.log_det import series_coefficients
from ..attention import Attention, Mix
from ..base import InverseInfo, InvertibleModule, branch_steepness, check_converged, check_features, invert_residual
from ..derived import derived
from ..heads import HEADS, SMALL
from ..linear import GroupedLinear
from ..modes.base import ScoreBounds, as_dtype, wide
from ..sharpness import Sharpness
from ..spec import AttentionSpec
from ..token_norm import TokenNorm
from .halves import check_halves

# The branch is linear and as steep as its bound: a longer memory pays. On half of the channels it takes no more room.
MEMORY = 10


class ConditionalWeights(NamedTuple):
    """Weights in float32 or higher: of the scores, with upper bounds of them, and W_h normalised to the contraction."""
    scores: tuple
    bounds: ScoreBounds
    weight: Tensor


class Conditional(InvertibleModule):
    """Conditional-linear attention. Every head reads all of x_2; with grouped heads each mixes a group of x_1."""

    def __init__(self, spec: AttentionSpec):
        super().__init__()
        check_halves(spec)
        half, heads = spec.channels // 2, spec.num_heads
        self.channels, self.contraction = spec.channels, spec.contraction
        self.heads = HEADS[spec.heads](half, spec)
        self.groups = self.heads.groups
        self.norm = TokenNorm(half)
        self.sharpness = Sharpness(spec.sharpness, heads)
        self.attention = Attention(spec, half, max(half // spec.reduction // heads, 1), heads, spec.bias)
        self.weight = GroupedLinear(self.heads.width, self.heads.width, heads, bias=False)

    @derived
    def weights(self) -> ConditionalWeights:
        """What the branch needs and what does not depend on the number of pixels."""
        with full_precision(self.weight.weight.device):
            weight = wide(self.weight.weight)
            total = self._total(gram_norm(weight))
            scores = as_dtype(self.attention.mode.weights())
            return ConditionalWeights(scores, self.attention.mode.bounds(scores, gram_norm),
                                      weight * (self.contraction / total.clamp(min=SMALL)))

    def _total(self, norm_H: Tensor) -> Tensor:
        """The norms of heads that add up, (1, 1, 1), or of each group, (H, 1, 1)."""
        return (norm_H if self.groups > 1 or len(norm_H) == 1 else norm_H.sum(0, keepdim=True))[:, None, None]

    def _scores(self, weights: ConditionalWeights, n_pixels: int) -> tuple[tuple, ScoreBounds]:
        """Scores at the sharpness for so many pixels, and their bounds."""
        peak = weights.bounds.peak
        temperature = self.sharpness(n_pixels).to(peak.dtype) / peak.clamp(min=SMALL)
        return (self.attention.mode.scaled(weights.scores, temperature),
                ScoreBounds(*(temperature * bound for bound in weights.bounds)))

    def _mixer(self, z: Tensor, weights: ConditionalWeights) -> Mix:
        """P of the half z, shape (B, C/2, H, W)."""
        size = (z.shape[2], z.shape[3])
        b_B1NC = self.norm(transposed(z.flatten(2))[:, None])
        return self.attention.mixer(self._scores(weights, size[0] * size[1])[0], b_B1NC, size)

    def _mixed(self, x1: Tensor, mix: Mix, weight: Tensor) -> Tensor:
        """g as a map of x_1 with P given."""
        tokens_BGNC = self.heads.tokens(x1)
        o_BHNC = mix(tokens_BGNC.expand(-1, len(weight), -1, -1))
        return transposed(self.heads.merge(o_BHNC, weight)).reshape(x1.shape)

    def branch(self, x: Tensor, weights: ConditionalWeights) -> Tensor:
        """g(x), shape (B, C/2, H, W), in the dtype of the weights."""
        with full_precision(x.device):
            x1, x2 = x.to(weights.weight.dtype).chunk(2, 1)
            return self._mixed(x1, self._mixer(x2, weights), weights.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        x1, x2 = x.chunk(2, 1)
        return torch.cat([x2, x1 + self.branch(x, self.weights()).to(x.dtype)], 1)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        with full_precision(y.device):
            weights = self.weights()
            eps = torch.finfo(y.dtype).eps
            x2, y1 = y.to(weights.weight.dtype).chunk(2, 1)
            whole = self._mixer(x2, weights)

            def branch(x1: Tensor, index: Tensor) -> Tensor:
                mix = whole if len(index) == len(x2) else self._mixer(x2[index], weights)
                return self._mixed(x1, mix, weights.weight)

            lipschitz = self.lipschitz_bound()
            # Logits of size s carry rounding errors of s eps into the weights.
            roundings = 4 + 4 * float(self.sharpness(y.shape[2] * y.shape[3]).max())
            x1, info = invert_residual(branch, y1, lipschitz, groups=self.groups, eps=eps, tol=tol, max_iter=max_iter,
                                       strict=False, roundings=roundings, memory=MEMORY)
            x = torch.cat([x1, x2], 1)
            if strict:
                check_converged(x, info, lipschitz, tol, max_iter)
            return x, info

    @torch.no_grad()
    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        """An error e of y moves P as well: ``|dP x_1| <= (G_1 + G_2) e / a |x_1|``, so

            |dx_1| <= (e + c (G_1 + G_2) e / a |x_1|) / (1 - c),     |dx_2| <= e
        """
        bounds = self._scores(self.weights(), x.shape[2] * x.shape[3])[1]
        slope = float((bounds.query_slope + bounds.key_slope).max() / self.norm.scale().min())
        lipschitz = self.lipschitz_bound()
        x1 = max_token_norm(x[:, :self.channels // 2], self.groups) + within
        moved = self.groups**0.5 * error * (1 + lipschitz * slope * x1) / (1 - lipschitz)
        return torch.hypot(moved, error)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``log|det J|``, shape (B,), by the series of :mod:`~mmseg_invattn.ops.conditional_log_det`.

        The sign of swapping the halves does not count. Exact traces where ``n_samples`` reaches the pixels. The map is
        linear in what it mixes, so the fused kernels serve, in the gradient too.
        """
        check_features(x, self.channels)
        if isinstance(n_terms, str) and n_terms == 'exact':
            def padded(x: Tensor) -> Tensor:  # x -> (g, 0): the output of the block but for the swap, less x
                g = self.branch(x, self.weights()).to(x.dtype)
                return torch.cat([g, torch.zeros_like(g)], 1)

            return residual_log_abs_det(padded, x, n_terms, n_samples)
        coefficients = series_coefficients(n_terms, n_samples, self.lipschitz_bound)
        with full_precision(x.device):
            weights = self.weights()
            mix = self._mixer(x.to(weights.weight.dtype).chunk(2, 1)[1], weights)
            shape = (len(x), len(weights.weight), x.shape[2] * x.shape[3])
            series = factorised_log_det if self.groups == len(weights.weight) else joint_log_det
            return series(mix, weights.weight, shape, coefficients, n_samples)

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the tokens of x_2 whose bounded copy has a norm above 0.9, shape (B,)."""
        check_features(x, self.channels)
        z_B1NC = x.to(self.norm.centre.dtype).chunk(2, 1)[1].flatten(2).mT[:, None]
        b_B1NC = self.norm(z_B1NC, frozen=True)
        return (b_B1NC.norm(dim=-1) > 0.9).to(b_B1NC.dtype).mean((1, 2))

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the Lipschitz constant of ``x_1 -> g`` at x, shape (B,)."""
        check_features(x, self.channels)
        weights = self.weights()
        x1, x2 = x.to(weights.weight.dtype).chunk(2, 1)
        with twice_differentiable():
            mix = self._mixer(x2, weights)
            return branch_steepness(lambda x1: self._mixed(x1, mix, weights.weight), x1, self.groups)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Neither is bounded: P moves with x_2 and mixes an x_1 of any size. See :meth:`inverse_error`."""
        return math.inf, math.inf

    @torch.no_grad()
    @derived
    def lipschitz_bound(self, n: int | None = None) -> float:
        """``|W|`` in float64, rounded up: the bound of the branch in x_1, for every number of pixels."""
        weight = self.weights().weight
        norms = self._total(spectral_norm_bound(weight))
        return float(norms.max()) * (1 + 4 * torch.finfo(weight.dtype).eps)
