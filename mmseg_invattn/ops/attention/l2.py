"""L2 attention: ``P_ij = softmax_j(-|q_i - k_j|^2)``, through the fused kernel of softmax attention.

Kim et al., The Lipschitz Constant of Self-Attention, https://arxiv.org/abs/2006.04710
"""

import torch
from torch import Tensor

from ..precision import at_least_float32
from .softmax import softmax_attention


def l2_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j softmax_j(-|q_i - k_j|^2 + beta_ij) v_j``, shape (B, G, N, E).

    ``-|q_i - k_j|^2 = 2 q_i . k_j - |k_j|^2 - |q_i|^2``: the last term cancels in the softmax, the second becomes one
    more channel of the key. The mean key is subtracted from queries and keys: distances do not change, and the expanded
    square loses fewer digits to cancellation. In half precision the square takes three channels; the second and the
    third hold the rounding error of the channels before them.
    """
    centre = k_BGMD.mean(-2, keepdim=True)
    q, k = q_BGND - centre, k_BGMD - centre
    left = -at_least_float32(k).square().sum(-1, keepdim=True)
    square = []
    for _ in range(1 if left.dtype == k.dtype else 3):
        square.append(left.to(k.dtype))
        left = left - square[-1]
    q = torch.cat([2 * q, torch.ones_like(q[..., :1]).expand(*q.shape[:-1], len(square))], -1)
    return softmax_attention(q, torch.cat([k, *square], -1), v_BGME, logits_GNM)


def l2_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = -|q_i - k_j|^2``, shape (B, G, N, M), without building the differences of shape (B, G, N, M, D)."""
    centre = k_BGMD.mean(-2, keepdim=True)
    q, k = q_BGND - centre, k_BGMD - centre
    return 2 * q @ k.mT - k.square().sum(-1)[..., None, :] - q.square().sum(-1, keepdim=True)


def l2_attention_dense(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """:func:`l2_attention` from its definition: the reference for the tests."""
    distance = (q_BGND[..., :, None, :] - k_BGMD[..., None, :, :]).square().sum(-1)
    return (-distance + (0 if logits_GNM is None else logits_GNM)).softmax(-1) @ v_BGME
