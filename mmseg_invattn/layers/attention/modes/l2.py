"""L2: ``P_ij = softmax_j(-|q_i - k_j|^2 + beta_ij)``, ``q = k = W x``: the nearest key to a query is its own pixel.

Kim et al., The Lipschitz Constant of Self-Attention, https://arxiv.org/abs/2006.04710

With the temperature included in W, on the ball of radius R:

    G_1 = 2 |W|^2 R,    G_2 = 4 |W|^2 R,    Lambda = s + sqrt(1 + s / 4 + 64 s^2 / 27),    s = 2 |W|^2 R^2 = R G_1

where s is half the range of the scores. The score of a key far from the query is steep, but such a key can have a value
far from the mean only if its weight is small; the proof is in docs/explanation/certificate.md. If each pixel attends to
all N pixels, including itself, without position logits, weights decrease faster than distances increase:
``E_P |W (b_j - b_i)|^2 <= Phi(N) = W_0((N - 1) / e)``. The scores change by ``|ds_ij| <= 4 e |W| |W (b_j - b_i)|`` if
tokens change by e, so their covariance with values in the ball is at most ``4 e |W| R sqrt(Phi)`` and

    Lambda <= 1 + 4 |W| R sqrt(Phi(N)) = 1 + 4 sqrt(s Phi(N) / 2)

which grows with the root of the sharpness and, slowly, with N. Both bounds hold, and the smaller one is used. (Kim's
bound ``1 + 4 Phi``, for tokens of any size, follows from the same argument for values that are tied to the keys.)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ....ops import Roundoff, spectral_norm_bound
from ....ops.attention import l2_attention, l2_log_weights
from ..linear import GroupedLinear, grouped_linear
from .base import Mode, Norm, ScoreBounds, ScoreGradients, inner_rounding, pulled_rounding


class DistanceWeights(NamedTuple):
    """W times the root of the temperature, shape (G, D, C)."""

    weight: Tensor

    def swapped(self) -> 'DistanceWeights':
        """Distances are symmetric."""
        return self


class L2(Mode):
    """Softmax of negative squared distances of projected tokens.

    Args:
        channels: C, channels of a token.
        inter_channels: D, size of the projection.
        groups: G; each has its own projection.
        bias: without effect: queries and keys share their projection, so a bias cancels in every distance.
        key_bias: without effect.
    """

    factor_depends_on_n = True
    paper_coefficients = {'query': 0.9}
    attend = staticmethod(l2_attention)
    log_weights = staticmethod(l2_log_weights)
    ordinary = staticmethod(l2_attention)
    paper = staticmethod(l2_attention)

    def __init__(
        self, channels: int, inter_channels: int, groups: int = 1, bias: bool = True, key_bias: bool | None = None
    ):
        super().__init__()
        self.query = GroupedLinear(channels, inter_channels, groups, bias=False)

    def forward(self, scaled: bool = True) -> DistanceWeights:
        weight, _ = self.query()
        return DistanceWeights(weight * weight.shape[1] ** -0.25 if scaled else weight)

    @staticmethod
    def scaled(weights: DistanceWeights, temperature: Tensor) -> DistanceWeights:
        return DistanceWeights(weights.weight * temperature.sqrt()[:, None, None])

    @staticmethod
    def bounds(
        weights: DistanceWeights, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        square = (norm(weights.weight) * radius).square()
        return ScoreBounds(2 * square, 2 * square, 4 * square)

    @staticmethod
    def lipschitz_factor(bounds: ScoreBounds, n_pixels: int | None = None) -> Tensor:
        s = bounds.query_slope
        ball = s + (1 + s / 4 + (64 / 27) * s.square()).sqrt()
        if n_pixels is None:
            return ball
        steep = bounds.query_slope / 2 * phi(n_pixels)
        # The clamp keeps the gradient of the root finite; where `steep` is 0, the bound of the ball is not larger.
        return ball.minimum(1 + 4 * steep.clamp(min=1e-30).sqrt()) if n_pixels > 1 else ball.clamp(max=1)

    @staticmethod
    def project(weights: DistanceWeights, queries_BGNC: Tensor, keys_BGMC: Tensor) -> tuple[Tensor, Tensor]:
        return grouped_linear(queries_BGNC, weights.weight), grouped_linear(keys_BGMC, weights.weight)

    @classmethod
    def rounding(cls, weights: DistanceWeights, tokens_BGNC: Tensor, reach_BG: Tensor, u: Roundoff) -> Tensor:
        """Rounding of ``2 <q_i, k_j> - |k_j|^2``, which is summed as one inner product of D + 1 terms."""
        q, _ = cls.project(weights, tokens_BGNC, tokens_BGNC)
        reach = spectral_norm_bound(weights.weight) * reach_BG
        size_BGN = torch.linalg.vector_norm(tokens_BGNC, dim=-1) + reach_BG[..., None]
        pulled = pulled_rounding(weights.weight, q, reach, u)
        moved = pulled.amax(-1, keepdim=True) * size_BGN + pulled * size_BGN.amax(-1, keepdim=True)
        return 4 * moved + 3 * inner_rounding(q, q, reach, reach, u)

    @staticmethod
    def score_gradients(weights: DistanceWeights, tokens_BGNC: Tensor) -> ScoreGradients:
        """Gradients of ``-|q_i - k_j|^2 = 2 <q_i, k_j> - |k_j|^2`` plus a term that depends only on i."""
        pulled_back = 2 * grouped_linear(tokens_BGNC, weights.weight) @ weights.weight
        return ScoreGradients(pulled_back, pulled_back, tied=True)


def phi(n: int) -> float:
    """``Phi = W_0((n - 1) / e)``, the solution of ``Phi e^(Phi + 1) = n - 1``, rounded up."""
    if n < 2:
        return 0.0
    root = math.log(n)  # above the root for n >= 2; from there Newton's method for a convex function descends to it
    for _ in range(60):
        root -= (root - (n - 1) * math.exp(-root - 1)) / (1 + root)
    return root * (1 + 1e-12)
