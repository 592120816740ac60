"""Dot product: ``P_ij = f(q_i . k_j) / sum_j f(q_i . k_j)`` with ``f = ELU + 1``; certified and conditional forms.

Wang et al. (https://arxiv.org/abs/1711.07971) divide the scores by the number of keys, as in form ``none``; the
invertible attention paper divides ``ELU(q . k)`` by its sum, as in form ``paper``.

On the ball of radius R, with ``A = W_Q^T W_K`` and ``f' / f <= 1``. Both biases matter, because f is not invariant to
shifts:

    G_1 = |A| R + |W_Q^T b_K|,     G_2 = |A| R + |W_K^T b_Q|
    Lambda = s_1 + sqrt(1 + s_2 + s_2^2),     s_1 = R G_1,     s_2 = R G_2

Without biases, s_1 = s_2 = s.
"""

from torch import Tensor

from ....ops.attention.dot_product import (
    dot_product_attention,
    dot_product_log_weights,
    elu_dot_product_attention,
    mean_dot_product_attention,
)
from .base import Norm, QueryKeyMode, QueryKeyWeights, ScoreBounds, pulled_back, vector_norm


class DotProduct(QueryKeyMode):
    """Positive function of the inner products of two learned projections. Arguments: :class:`~.base.QueryKeyMode`."""

    softmax = False
    key_bias_counts = True
    paper_value_coefficient = 0.5
    attend = staticmethod(dot_product_attention)
    log_weights = staticmethod(dot_product_log_weights)
    ordinary = staticmethod(mean_dot_product_attention)
    paper = staticmethod(elu_dot_product_attention)

    def forward(self, scaled: bool = True) -> QueryKeyWeights:
        """The dot products of mmcv and of the paper have no factor ``1 / sqrt(D)``."""
        return super().forward(scaled=False)

    @classmethod
    def bounds(
        cls, weights: QueryKeyWeights, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        product = (norm(*cls.factors(weights)) if product is None else product) * radius**2
        query_term = vector_norm(pulled_back(weights.query, weights.key_bias)) * radius
        key_term = vector_norm(pulled_back(weights.key, weights.query_bias)) * radius
        constant = 0.0
        if weights.query_bias is not None and weights.key_bias is not None:
            constant = (weights.query_bias * weights.key_bias).sum(-1).abs()
        return ScoreBounds(product + query_term + key_term + constant, product + query_term, product + key_term)
