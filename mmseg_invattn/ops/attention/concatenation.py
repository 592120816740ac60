"""Concatenation attention: ``w . [q_i ; k_j] = alpha_i + gamma_j``, one number per query plus one number per key.

    out_i = sum_j f(alpha_i + gamma_j) v_j / z_i,     z_i = sum_j f(alpha_i + gamma_j), or M for ReLU

exactly, in O((N + M) log M) time and O(N + M) memory. Position logits depend on i and j jointly, so sorting does not
help: with them, and over parts of the pixels (``concatenation_log_weights``), the N x M map of those pixels is built.

Shape suffixes: B batch, G heads, N queries, M keys, 1 the one number of a query or key in the score, E value size.
"""

import torch
from torch import Tensor

from ..second_derivative import plain_operators_wanted
from .positive import elu_attention, log_elu1, positive_attention, positive_attention_dense
from .sorted_concatenation import sorted_concatenation


def concatenation_log_weights(alpha_BGN1: Tensor, gamma_BGM1: Tensor) -> Tensor:
    """``log w_ij = log(ELU(alpha_i + gamma_j) + 1)``, shape (B, G, N, M)."""
    return log_elu1(alpha_BGN1 + gamma_BGM1.mT)


def concatenation_attention(
    alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None
) -> Tensor:
    """``out_i = sum_j f(alpha_i + gamma_j) v_j / sum_j f(alpha_i + gamma_j)``, ``f = ELU + 1``.

    The N x M map is built if there are logits or if :func:`~mmseg_invattn.ops.plain_operators_wanted` returns True.
    """
    if logits_GNM is not None or plain_operators_wanted():
        return positive_attention(concatenation_log_weights(alpha_BGN1, gamma_BGM1), v_BGME, logits_GNM)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'elu1')


def concatenation_attention_dense(
    alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None
) -> Tensor:
    """:func:`concatenation_attention` from its definition: the reference for the tests."""
    return positive_attention_dense(alpha_BGN1 + gamma_BGM1.mT, v_BGME, logits_GNM)


def mean_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = 1/M sum_j ReLU(alpha_i + gamma_j) v_j``, as in the non-local block."""
    if plain_operators_wanted():
        return mean_concatenation_attention_dense(alpha_BGN1, gamma_BGM1, v_BGME)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'relu')


def mean_concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """The same with the N x M map: the reference for the tests, and used where a second derivative is needed."""
    return (alpha_BGN1 + gamma_BGM1.mT).relu() @ v_BGME / gamma_BGM1.shape[-2]


def elu_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = sum_j ELU(alpha_i + gamma_j) v_j / sum_j ELU(alpha_i + gamma_j)``, as in the paper."""
    if plain_operators_wanted():
        return elu_concatenation_attention_dense(alpha_BGN1, gamma_BGM1, v_BGME)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'elu')


def elu_concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """The same with the N x M map: the reference for the tests, and used where a second derivative is needed."""
    return elu_attention(alpha_BGN1 + gamma_BGM1.mT, v_BGME)


def _attend(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor, kind: str) -> Tensor:
    rows = torch.broadcast_shapes(alpha_BGN1.shape[:2], gamma_BGM1.shape[:2], v_BGME.shape[:2])
    alpha, gamma, v = (t.expand(*rows, -1, -1).flatten(0, 1) for t in (alpha_BGN1, gamma_BGM1, v_BGME))
    return sorted_concatenation(alpha, gamma, v, kind).unflatten(0, rows)
