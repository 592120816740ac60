"""Dot-product attention: ``t_ij = q_i . k_j`` with positive weights, as a plain mean, and as the paper computes it.

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size.
"""

from torch import Tensor

from ..second_derivative import plain_operators_wanted
from .blocked_positive import blocked_positive_attention
from .positive import elu_attention, log_elu1, positive_attention, positive_attention_dense


def dot_product_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = log(ELU(q_i . k_j) + 1)``, shape (B, G, N, M)."""
    return log_elu1(q_BGND @ k_BGMD.mT)


def dot_product_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j f(q_i . k_j) v_j / sum_j f(q_i . k_j)``, ``f = ELU + 1``, shape (B, G, N, E), in O(N + M) memory.

    If :func:`~mmseg_invattn.ops.plain_operators_wanted` returns True, the N x M map is built instead.
    """
    if plain_operators_wanted():
        return positive_attention(dot_product_log_weights(q_BGND, k_BGMD), v_BGME, logits_GNM)
    return blocked_positive_attention(q_BGND, k_BGMD, v_BGME, logits_GNM)


def dot_product_attention_dense(
    q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None
) -> Tensor:
    """:func:`dot_product_attention` from its definition: the reference for the tests."""
    return positive_attention_dense(q_BGND @ k_BGMD.mT, v_BGME, logits_GNM)


def mean_dot_product_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = 1/M sum_j (q_i . k_j) v_j``, as in the non-local block; linear in the keys, so without an N x M map."""
    return q_BGND @ (k_BGMD.mT @ v_BGME) / k_BGMD.shape[-2]


def elu_dot_product_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = sum_j ELU(q_i . k_j) v_j / sum_j ELU(q_i . k_j)``, as in the invertible attention paper.

    Memory as in :func:`dot_product_attention`.
    """
    if plain_operators_wanted():
        return elu_attention(q_BGND @ k_BGMD.mT, v_BGME)
    return blocked_positive_attention(q_BGND, k_BGMD, v_BGME, elu=True)
