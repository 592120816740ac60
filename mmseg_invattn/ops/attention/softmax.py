"""Softmax attention, fused and dense.

Shape suffixes: B batch, G heads (channel groups), N queries, M keys, D query and key size, E value size.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..second_derivative import second_derivative_wanted

MIN_WIDTH = 64  # narrower parts of the values cost more in repeated softmaxes than they save in channels of zeros


def softmax_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j softmax_j(q_i . k_j + beta_ij) v_j``, in O(N + M) memory where the device has a fused kernel.

    The scale belongs to the caller: scores are ``q . k`` as given. One group of keys serves all groups of queries. The
    fused kernels have neither a second derivative nor a gradient of beta; inside
    :func:`~mmseg_invattn.ops.twice_differentiable`, and where beta asks for a gradient, torch takes the MATH backend,
    which has both and holds the N x M map.

    Returns:
        Tensor of shape (B, G, N, E).
    """
    if k_BGMD.shape[1] != q_BGND.shape[1]:
        k_BGMD = k_BGMD.expand(-1, q_BGND.shape[1], -1, -1)
    beta = logits_GNM
    if beta is not None:
        beta = beta.to(q_BGND.dtype)[(None, ) * (4 - beta.dim())]  # three dimensions are none of the fused kernels'
    if second_derivative_wanted() or (beta is not None and beta.requires_grad):
        return F.scaled_dot_product_attention(q_BGND, k_BGMD, v_BGME, attn_mask=beta, scale=1.0)
    # The fused kernels take contiguous queries, keys and values of one width, a multiple of 8 on CUDA; with transposed
    # views or another width torch falls back to the N x M map silently. So wide values go in parts, and zeros fill up.
    size, n_values = q_BGND.shape[-1], v_BGME.shape[-1]
    width = -(-max(size, min(n_values, MIN_WIDTH)) // 8) * 8
    q, k = _filled(q_BGND, width), _filled(k_BGMD, width)
    out = [F.scaled_dot_product_attention(q, k, _filled(v, width), attn_mask=beta, scale=1.0)
           for v in v_BGME.split(width, -1)]
    return (out[0] if len(out) == 1 else torch.cat(out, -1))[..., :n_values]


def _filled(x: Tensor, width: int) -> Tensor:
    """x with channels of zeros up to the width."""
    return F.pad(x, (0, width - x.shape[-1])).contiguous()


def softmax_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = q_i . k_j``, shape (B, G, N, M)."""
    return q_BGND @ k_BGMD.mT


def softmax_attention_dense(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor,
                            logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition, with the N x M map: the reference of the tests."""
    return (q_BGND @ k_BGMD.mT + (0 if logits_GNM is None else logits_GNM)).softmax(-1) @ v_BGME
