"""Concatenation: ``t_ij = w . [q_i ; k_j] = alpha_i + gamma_j``, ``P_ij = f(t_ij) / sum_j f(t_ij)``, ``f = ELU + 1``.

Wang et al. (https://arxiv.org/abs/1711.07971) use ``ReLU(t) / M``, as in form ``none``; the invertible attention paper
uses ``ELU(t) / sum ELU(t)``, as in form ``paper``. On the ball of radius R, with ``a = W_Q^T w_q`` and
``c = W_K^T w_k``:

    G_1 = |a|,     G_2 = |c|,     Lambda = s_1 / 2 + sqrt(1 + s_2 + s_2^2),     s_1 = R G_1,     s_2 = R G_2

A change of a query changes all of its scores by the same amount. This changes the weights only as far as ``f' / f``
differs between the keys; hence the factor 1/2 of s_1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ....ops import Roundoff, sum_rounding
from ....ops.attention.concatenation import (
    concatenation_attention,
    concatenation_log_weights,
    elu_concatenation_attention,
    mean_concatenation_attention,
)
from ..linear import GroupedLinear, grouped_linear
from .base import Norm, QueryKeyMode, ScoreBounds, ScoreGradients


class ConcatenationWeights(NamedTuple):
    """``alpha_i = <query, x_i> + bias`` and ``gamma_j = <key, x_j>``: (G, 1, C), (G, 1, C) and (G, 1) or None."""

    query: Tensor
    key: Tensor
    bias: Tensor | None = None

    def swapped(self) -> 'ConcatenationWeights':
        """The same scores with queries and keys exchanged; the bias belongs to the sum and stays."""
        return self._replace(query=self.key, key=self.query)


class Concatenation(QueryKeyMode):
    """Positive function of a learned term of the query plus one of the key. Arguments: :class:`~.base.QueryKeyMode`."""

    softmax = False
    key_bias_counts = True
    paper_coefficients = {'query': 0.9, 'key': 0.9, 'join': 0.9}
    attend = staticmethod(concatenation_attention)
    log_weights = staticmethod(concatenation_log_weights)
    ordinary = staticmethod(mean_concatenation_attention)
    paper = staticmethod(elu_concatenation_attention)

    def __init__(
        self, channels: int, inter_channels: int, groups: int = 1, bias: bool = True, key_bias: bool | None = None
    ):
        super().__init__(channels, inter_channels, groups, bias, key_bias)
        self.join = GroupedLinear(2 * inter_channels, 1, groups, bias=False)

    def forward(self, scaled: bool = True) -> ConcatenationWeights:
        """Neither mmcv's nor the paper's scores have a scale."""
        of_query, of_key = self.join()[0].chunk(2, dim=2)
        (query, query_bias), (key, key_bias) = self.query(), self.key()
        bias = None
        for linear_bias, part in ((query_bias, of_query), (key_bias, of_key)):
            if linear_bias is not None:
                term = (part @ linear_bias[..., None])[..., 0]
                bias = term if bias is None else bias + term
        return ConcatenationWeights(of_query @ query, of_key @ key, bias)

    @staticmethod
    def scaled(weights: ConcatenationWeights, temperature: Tensor) -> ConcatenationWeights:
        t = temperature[:, None]
        return ConcatenationWeights(
            weights.query * t[..., None], weights.key * t[..., None], None if weights.bias is None else weights.bias * t
        )

    @staticmethod
    def factors(weights: ConcatenationWeights) -> None:
        """None: the scores are sums, without a product of projections."""

    @staticmethod
    def bounds(
        weights: ConcatenationWeights, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        query, key = (norm(w) * radius for w in (weights.query, weights.key))
        constant = 0.0 if weights.bias is None else weights.bias.abs()[..., 0]
        return ScoreBounds(query + key + constant, query, key)

    @staticmethod
    def lipschitz_factor(bounds: ScoreBounds, n_pixels: int | None = None) -> Tensor:
        return QueryKeyMode.lipschitz_factor(bounds._replace(query_slope=bounds.query_slope / 2))

    @staticmethod
    def project(weights: ConcatenationWeights, queries_BGNC: Tensor, keys_BGMC: Tensor) -> tuple[Tensor, Tensor]:
        return grouped_linear(queries_BGNC, weights.query, weights.bias), grouped_linear(keys_BGMC, weights.key)

    @classmethod
    def rounding(cls, weights: ConcatenationWeights, tokens_BGNC: Tensor, reach_BG: Tensor, u: Roundoff) -> Tensor:
        size_BGN = torch.linalg.vector_norm(tokens_BGNC, dim=-1) + reach_BG[..., None]
        query, key = (torch.linalg.vector_norm(w[..., 0, :], dim=-1)[:, None] for w in (weights.query, weights.key))
        total = query * size_BGN + key * size_BGN.amax(-1, keepdim=True)
        bias = 0 if weights.bias is None else weights.bias.abs()
        of_products = sum_rounding(weights.query.shape[-1], 1, u.sums) + 2 * u.sums + 3 * u.casts
        return of_products * total + 2 * u.any * bias

    @classmethod
    def score_gradients(cls, weights: ConcatenationWeights, tokens_BGNC: Tensor) -> ScoreGradients:
        batch, _, n, _ = tokens_BGNC.shape
        return ScoreGradients(weights.query.expand(batch, -1, n, -1), weights.key.expand(batch, -1, n, -1))
