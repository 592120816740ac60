"""Embedded Gaussian: ``P_ij = softmax_j(q_i . k_j + beta_ij)``, ``q = W_Q x + b_Q``, ``k = W_K x + b_K``.

Wang et al., Non-local Neural Networks, https://arxiv.org/abs/1711.07971

On the ball of radius R, with ``A = W_Q^T W_K`` and ``a = W_K^T b_Q`` (the key bias adds the same to the scores of all
keys, so it has no effect):

    score b_i^T A b_j + a^T b_j + const_i,     G_1 = |A| R,     G_2 = |A| R + |a|
    Lambda = s_1 + sqrt(1 + s_2^2),            s_1 = R G_1,     s_2 = R G_2 = the largest content logit

The norms of the products A and a are bounded, not those of their factors, because |A| may be far below |W_Q| |W_K|.
"""

from torch import Tensor

from .base import Norm, QueryKeyMode, QueryKeyWeights, ScoreBounds, pulled_back, vector_norm


def softmax_factor(bounds: ScoreBounds) -> Tensor:
    """``Lambda = s_1 + sqrt(1 + s_2^2)``: a term for queries plus one for values and keys; for any number of pixels."""
    return bounds.query_slope + (1 + bounds.key_slope.square()).sqrt()


class EmbeddedGaussian(QueryKeyMode):
    """Softmax of the inner products of two learned projections. Arguments: :class:`~.base.QueryKeyMode`."""

    @classmethod
    def bounds(
        cls, weights: QueryKeyWeights, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        product = (norm(*cls.factors(weights)) if product is None else product) * radius**2
        peak = product + vector_norm(pulled_back(weights.key, weights.query_bias)) * radius
        return ScoreBounds(peak, product, peak)

    @staticmethod
    def lipschitz_factor(bounds: ScoreBounds, n_pixels: int | None = None) -> Tensor:
        return softmax_factor(bounds)
