"""Concatenation attention: ``w . [q_i ; k_j] = alpha_i + gamma_j``, a sum of a number of the query and one of the key.

Shape suffixes: B batch, G heads, N queries, M keys, 1 the score's one number, E value size.
"""
from torch import Tensor

from .positive import elu_attention, log_elu1, positive_attention, positive_attention_dense


def concatenation_log_weights(alpha_BGN1: Tensor, gamma_BGM1: Tensor) -> Tensor:
    """``log w_ij = log(ELU(alpha_i + gamma_j) + 1)``, shape (B, G, N, M)."""
    return log_elu1(alpha_BGN1 + gamma_BGM1.mT)


def concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor,
                            logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j f(alpha_i + gamma_j) v_j / sum_j f(alpha_i + gamma_j)``, ``f = ELU + 1``."""
    return positive_attention(concatenation_log_weights(alpha_BGN1, gamma_BGM1), v_BGME, logits_GNM)


def concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor,
                                  logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition: the reference of the tests."""
    return positive_attention_dense(alpha_BGN1 + gamma_BGM1.mT, v_BGME, logits_GNM)


def mean_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = 1/M sum_j ReLU(alpha_i + gamma_j) v_j``, the non-local block's."""
    return (alpha_BGN1 + gamma_BGM1.mT).relu() @ v_BGME / gamma_BGM1.shape[-2]


def elu_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = sum_j ELU(alpha_i + gamma_j) v_j / sum_j ELU(alpha_i + gamma_j)``, the paper's."""
    return elu_attention(alpha_BGN1 + gamma_BGM1.mT, v_BGME)
