"""Embedded Gaussian: ``P_ij = softmax_j(q_i . k_j)``, ``q = W_Q x + b_Q``, ``k = W_K x + b_K``.

Wang et al., Non-local Neural Networks, https://arxiv.org/abs/1711.07971

Shape suffixes: B batch, G channel groups, N queries, M keys, C channels of a group, D query size, E value size.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import gram_norm, softmax_attention, spectral_norm_bound
from ..linear import GroupedLinear, grouped_linear


class QueryKeyWeights(NamedTuple):
    """Projections as the scores use them, any scale of the scores included in the query."""
    query: Tensor
    key: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None


class EmbeddedGaussian(nn.Module):
    """Softmax of the inner products of two learned projections.

    Args:
        channels: C, channels of a group.
        inter_channels: D, size of queries and keys.
        groups: G; each has projections of its own.
        bias: biases of the projections, for the ordinary form. The certified form has none: in a softmax a key bias
            is inert, and a query bias would enlarge the bound.
    """

    def __init__(self, channels: int, inter_channels: int, groups: int = 1, bias: bool = False):
        super().__init__()
        self.query = GroupedLinear(channels, inter_channels, groups, bias)
        self.key = GroupedLinear(channels, inter_channels, groups, bias)

    def weights(self) -> QueryKeyWeights:
        """Scores ``q . k / sqrt(D)``."""
        scale = self.query.weight.shape[1]**-0.5
        bias = None if self.query.bias is None else self.query.bias * scale
        return QueryKeyWeights(self.query.weight * scale, self.key.weight, bias, self.key.bias)

    def certified_weights(self, sharpness: float) -> QueryKeyWeights:
        """Scores ``s b_i^T (A / |A|) b_j`` with ``A = W_Q^T W_K``: at most s in size on the unit ball.

        The effective product is normalised and not its factors, because |A| may be far below |W_Q| |W_K|; by a
        differentiable upper bound, so that the certificate holds at every step of training.
        """
        query, key = (w.to(torch.promote_types(w.dtype, torch.float32)) for w in (self.query.weight, self.key.weight))
        return QueryKeyWeights(query * (sharpness / gram_norm(query.mT @ key))[:, None, None], key)

    @staticmethod
    def attend(weights: QueryKeyWeights, queries_BGNC: Tensor, keys_BGMC: Tensor, values_BGME: Tensor) -> Tensor:
        """``out_i = sum_j P_ij v_j``, shape (B, G, N, E)."""
        q_BGND = grouped_linear(queries_BGNC, weights.query, weights.query_bias)
        k_BGMD = grouped_linear(keys_BGMC, weights.key, weights.key_bias)
        return softmax_attention(q_BGND, k_BGMD, values_BGME)

    @staticmethod
    def sharpness_bound(weights: QueryKeyWeights) -> Tensor:
        """``s = |W_Q^T W_K|_2`` for tokens in the unit ball, rounded up; float64, shape (G,)."""
        return spectral_norm_bound(weights.query.double().mT @ weights.key.double())

    @staticmethod
    def lipschitz_factor(sharpness: float | Tensor) -> float | Tensor:
        """``Lambda = s + sqrt(1 + s^2)``, for every number of pixels."""
        return sharpness + (1 + sharpness**2)**0.5
