"""The interface of a mode: scores of pixels, their bounds, and the kernels that turn scores into attention.

Shape suffixes: B batch, G heads, N queries, M keys, C channels of a token, D query and key size, E value size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ....ops import Roundoff, factor_rounding, spectral_norm_bound, sum_rounding
from ....ops.attention import softmax_attention, softmax_log_weights
from ..linear import GroupedLinear, grouped_linear

Norm = Callable[..., Tensor]  # upper bound of |W|, or |L R|, of matrices: gram_norm, or spectral_norm_bound


class QueryKeyWeights(NamedTuple):
    """The projections, including all scale factors of the scores."""

    query: Tensor
    key: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None

    def swapped(self) -> 'QueryKeyWeights':
        """The same scores with queries and keys exchanged."""
        return QueryKeyWeights(self.key, self.query, self.key_bias, self.query_bias)


class ScoreBounds(NamedTuple):
    """Upper bounds for tokens in the ball of radius R; all of them are proportional to the temperature.

    Attributes:
        peak: largest absolute value of a score, without terms that have no effect on a softmax.
        query_slope: R times the Lipschitz constant of the score as a function of the query token.
        key_slope: R times the Lipschitz constant of the score as a function of the key token.
    """

    peak: Tensor
    query_slope: Tensor
    key_slope: Tensor


class ScoreGradients(NamedTuple):
    """``dt_ij = <kappa_j, dx_i> + <alpha_ij, dx_j>``; for a softmax up to a term that depends only on i.

    Attributes:
        kappa: shape (B, G, N, C).
        alpha: alpha_i, shape (B, G, N, C).
        tied: True if ``alpha_ij = alpha_i - kappa_j``, False if ``alpha_ij = alpha_i``.
    """

    kappa: Tensor
    alpha: Tensor
    tied: bool = False


class Mode(nn.Module, ABC):
    """Scores ``t_ij`` of tokens, and the attention that follows from them.

    Calling the module returns the projections, and every other method takes them as an argument, so that a solver
    computes them once for a whole solve.
    """

    softmax = True  # whether P = softmax(t + beta)
    key_bias_counts = False  # whether the bias of the keys has an effect; on a softmax over the keys it has none
    mmcv_scales = True  # whether mmcv's non-local block scales the scores
    factor_depends_on_n = False  # whether lipschitz_factor uses the number of pixels
    # Form 'paper': coefficients of the soft spectral normalisation of each projection, and of the value.
    paper_coefficients = {'query': 0.9, 'key': 0.9}
    paper_value_coefficient = 0.9

    @abstractmethod
    def forward(self, scaled: bool = True) -> NamedTuple:
        """The projections of ordinary attention; ``scaled=False`` omits the factor ``1 / sqrt(D)``."""

    @staticmethod
    @abstractmethod
    def scaled(weights: NamedTuple, temperature: Tensor) -> NamedTuple:
        """Weights whose scores are ``temperature`` times those of the given weights; temperature has shape (G,)."""

    @staticmethod
    def factors(weights: NamedTuple) -> tuple[Tensor, Tensor] | None:
        """L and R, shape (G, C, D) and (G, D, C), if :meth:`bounds` needs ``|L R|``; otherwise None."""
        return None

    @staticmethod
    @abstractmethod
    def bounds(
        weights: NamedTuple, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        """Bounds for tokens of norm at most ``radius``; each of shape (G,), or (..., G) with a radius of (..., 1).

        Args:
            weights: of the scores.
            norm: function that bounds norms of matrices.
            radius: of the ball.
            product: bound of ``|L R|`` by that function, if it is known already.
        """

    @staticmethod
    def lipschitz_factor(bounds: ScoreBounds, n_pixels: int | None = None) -> Tensor:
        """The factor Lambda of the certificate ``Lip(g) <= gain |W| Lambda`` on the unit ball.

        For every positive kernel f with ``f' / f`` in [0, 1] it is ``s_1 + sqrt(1 + s_2 + s_2^2)`` with
        ``s_1 = R G_1``, ``s_2 = R G_2``.

        Args:
            bounds: on the unit ball.
            n_pixels: number of pixels if every pixel attends to every pixel, including itself, without position
                logits; some modes then have a smaller bound. Otherwise None.
        """
        s = bounds.key_slope
        return bounds.query_slope + (1 + s + s.square()).sqrt()

    @staticmethod
    @abstractmethod
    def project(weights: NamedTuple, queries_BGNC: Tensor, keys_BGMC: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys for the kernels, (B, G, N, D) and (B, G, M, D)."""

    @staticmethod
    @abstractmethod
    def score_gradients(weights: NamedTuple, tokens_BGNC: Tensor) -> ScoreGradients:
        """Gradients of the scores in the tokens; every token is both query and key."""

    @classmethod
    @abstractmethod
    def rounding(cls, weights: NamedTuple, tokens_BGNC: Tensor, reach_BG: Tensor, u: Roundoff) -> Tensor:
        """Bound of the rounding errors of the scores of a query, over all keys, for tokens within the reach.

        Args:
            weights: of the scores, float64.
            tokens_BGNC: float64; every token is both query and key.
            reach_BG: the bound holds for all tokens within this distance of the given ones.
            u: the rounding errors of the forward pass.

        Returns:
            Tensor of shape (B, H, N).
        """

    # Kernels (q, k, v[, beta]) -> out. attend is row-stochastic, and log_weights(q, k) returns its log-weights;
    # ordinary is that of mmcv's non-local block, and paper that of the invertible attention paper without its 1.5.
    attend = staticmethod(softmax_attention)
    log_weights = staticmethod(softmax_log_weights)
    ordinary = staticmethod(softmax_attention)
    paper = staticmethod(softmax_attention)


class QueryKeyMode(Mode):
    """Inner products of two learned projections, ``q = W_Q x + b_Q``, ``k = W_K x + b_K``.

    Args:
        channels: C, channels of a token.
        inter_channels: D, size of queries and keys.
        groups: G; each has its own projections.
        bias: whether the projections have biases.
        key_bias: whether the key projection has a bias; by default as ``bias``.
    """

    def __init__(
        self, channels: int, inter_channels: int, groups: int = 1, bias: bool = True, key_bias: bool | None = None
    ):
        super().__init__()
        self.query = GroupedLinear(channels, inter_channels, groups, bias)
        self.key = GroupedLinear(channels, inter_channels, groups, bias if key_bias is None else key_bias)

    def forward(self, scaled: bool = True) -> QueryKeyWeights:
        (query, query_bias), (key, key_bias) = self.query(), self.key()
        weights = QueryKeyWeights(query, key, query_bias, key_bias)
        return self.scaled(weights, query.new_full((1,), query.shape[1] ** -0.5)) if scaled else weights

    @staticmethod
    def scaled(weights: QueryKeyWeights, temperature: Tensor) -> QueryKeyWeights:
        bias = weights.query_bias
        return weights._replace(
            query=weights.query * temperature[:, None, None],
            query_bias=None if bias is None else bias * temperature[:, None],
        )

    @staticmethod
    def factors(weights: QueryKeyWeights) -> tuple[Tensor, Tensor]:
        """``A = W_Q^T W_K``."""
        return weights.query.mT, weights.key

    @staticmethod
    def project(weights: QueryKeyWeights, queries_BGNC: Tensor, keys_BGMC: Tensor) -> tuple[Tensor, Tensor]:
        return (
            grouped_linear(queries_BGNC, weights.query, weights.query_bias),
            grouped_linear(keys_BGMC, weights.key, weights.key_bias),
        )

    @classmethod
    def score_gradients(cls, weights: QueryKeyWeights, tokens_BGNC: Tensor) -> ScoreGradients:
        q, k = cls.project(weights, tokens_BGNC, tokens_BGNC)
        return ScoreGradients(k @ weights.query, q @ weights.key)

    @classmethod
    def rounding(cls, weights: QueryKeyWeights, tokens_BGNC: Tensor, reach_BG: Tensor, u: Roundoff) -> Tensor:
        """Rounding in ``dq . k + q . dk`` and in the sum ``q . k``; it depends on W_Q and W_K, not on their product."""
        q, k = cls.project(weights, tokens_BGNC, tokens_BGNC)
        q_reach, k_reach = (spectral_norm_bound(w) * reach_BG for w in (weights.query, weights.key))
        size_BGN = torch.linalg.vector_norm(tokens_BGNC, dim=-1) + reach_BG[..., None]
        of_query = pulled_rounding(weights.query, k, k_reach, u).amax(-1, keepdim=True) * size_BGN
        of_key = pulled_rounding(weights.key, q, q_reach, u) * size_BGN.amax(-1, keepdim=True)
        return of_query + of_key + inner_rounding(q, k, q_reach, k_reach, u)


def pulled_rounding(weight_HDC: Tensor, other_BHND: Tensor, reach_BH: Tensor, u: Roundoff) -> Tensor:
    """The error of ``(W x) . y`` for ``|x| <= 1`` that is caused by rounding in ``W x``, shape (B, H, N).

    The rows of W x round independently, each in proportion to ``sqrt(sum_c W_dc^2 x_c^2)``. So the error of their sum
    with weights y_d is proportional to ``sqrt(max_c sum_d W_dc^2 y_d^2)``.
    """
    dimensions, channels = weight_HDC.shape[-2:]
    seen = (other_BHND.square() @ weight_HDC.square()).amax(-1).sqrt()
    largest = torch.linalg.vector_norm(weight_HDC, dim=-2).amax(-1)
    relative = sum_rounding(channels, dimensions, u.sums) + factor_rounding(dimensions, u.casts)
    return relative * (seen + (largest * reach_BH)[..., None])


def inner_rounding(q: Tensor, k: Tensor, q_reach: Tensor, k_reach: Tensor, u: Roundoff) -> Tensor:
    """Rounding of ``q_i . k_j``, including the rounding of each number of q and k; the largest over j, (B, H, N).

    ``sum_d q_d^2 k_d^2 <= |q|_4^2 |k|_4^2`` for the D products, and the sum itself is at most ``|q| |k|``. If products
    are cast, the sum may be stored in the lower precision too.
    """
    sizes = []
    for order in (2, 4):
        of_q = torch.linalg.vector_norm(q, order, -1) + q_reach[..., None]
        of_k = torch.linalg.vector_norm(k, order, -1).amax(-1, keepdim=True) + k_reach[..., None]
        sizes.append(of_q * of_k)
    of_sum = sum_rounding(q.shape[-1], 4, u.sums) * torch.hypot(sizes[0], sizes[1])
    return of_sum + u.casts * sizes[0] + 4 * u.any * sizes[1]


def vector_norm(vector_GC: Tensor | None) -> Tensor | float:
    """Upper bound of ``|v|``, shape (G,), in the dtype of the vector; 0 for None."""
    if vector_GC is None:
        return 0.0
    norm = torch.linalg.vector_norm(vector_GC, dim=-1, dtype=torch.float64)
    eps = torch.finfo(vector_GC.dtype).eps
    return (norm * (1 + (1 + vector_GC.shape[-1]) * eps)).to(vector_GC.dtype)


def pulled_back(weight_GDC: Tensor, vector_GD: Tensor | None) -> Tensor | None:
    """``W^T v``, shape (G, C); None for None."""
    return None if vector_GD is None else (weight_GDC.mT @ vector_GD[..., None])[..., 0]


def product_norms(pairs: list[tuple[Tensor, Tensor]], norm: Norm) -> list[Tensor]:
    """``norm(left, right)`` of several pairs of the same shape, computed together."""
    left, right = (torch.cat(side) if len(pairs) > 1 else side[0] for side in zip(*pairs, strict=True))
    return list(norm(left, right).chunk(len(pairs)))
