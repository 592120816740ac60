"""Attention whose logits are a term of the rows plus a term of the columns, without an N x N map.

    softmax over (k_1, k_2) of r(q_1, k_1) + c(q_2, k_2)  =  softmax of r over k_1  x  softmax of c over k_2

exactly, also at borders and with rectangular masks: ``O(N (H + W) E)`` per head.

Shape suffixes: B batch, G heads, E value size, H and W rows and columns of the keys, I and J rows and columns of the
queries, N = I J, M = H W.
"""

import torch
from torch import Tensor


def separable_attention(row_GIH: Tensor, column_GJW: Tensor, v_BGEHW: Tensor) -> Tensor:
    """``out_(i, j) = sum_(h, w) R_ih C_jw v_(h, w)``, shape (B, G, E, I, J).

    Args:
        row_GIH: weights R of the rows, after the softmax.
        column_GJW: weights C of the columns.
        v_BGEHW: values as feature maps; if there is one group, all G heads share it.
    """
    if v_BGEHW.shape[1] == 1:
        v_BGEHJ = torch.einsum('gjw,behw->bgehj', column_GJW, v_BGEHW[:, 0])
    else:
        v_BGEHJ = torch.einsum('gjw,bgehw->bgehj', column_GJW, v_BGEHW)
    return torch.einsum('gih,bgehj->bgeij', row_GIH, v_BGEHJ)


def separable_weights_dense(row_GIH: Tensor, column_GJW: Tensor) -> Tensor:
    """The N x M map of the same weights, shape (G, N, M)."""
    return torch.einsum('gih,gjw->gijhw', row_GIH, column_GJW).flatten(3).flatten(1, 2)
