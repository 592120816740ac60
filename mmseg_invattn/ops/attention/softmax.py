"""Softmax attention, fused and dense.

Shape suffixes: B batch, G heads (channel groups), N queries, M keys, D query and key size, E value size.
"""
import torch.nn.functional as F
from torch import Tensor


def softmax_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j softmax_j(q_i . k_j + beta_ij) v_j``, in O(N + M) memory where the device has a fused kernel.

    The scale belongs to the caller: scores are ``q . k`` as given. One group of keys serves all groups of queries. The
    fused kernels have no second derivative; inside :func:`~mmseg_invattn.ops.twice_differentiable` torch takes the MATH
    backend, which has one and holds the N x M map.

    Returns:
        Tensor of shape (B, G, N, E).
    """
    if k_BGMD.shape[1] != q_BGND.shape[1]:
        k_BGMD = k_BGMD.expand(-1, q_BGND.shape[1], -1, -1)
    if logits_GNM is not None:
        logits_GNM = logits_GNM.to(q_BGND.dtype)
    # The fused kernels take contiguous inputs; with transposed views torch falls back to the N x M map silently.
    return F.scaled_dot_product_attention(q_BGND.contiguous(), k_BGMD.contiguous(), v_BGME.contiguous(),
                                          attn_mask=logits_GNM, scale=1.0)


def softmax_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = q_i . k_j``, shape (B, G, N, M)."""
    return q_BGND @ k_BGMD.mT


def softmax_attention_dense(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor,
                            logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition, with the N x M map: the reference of the tests."""
    return (q_BGND @ k_BGMD.mT + (0 if logits_GNM is None else logits_GNM)).softmax(-1) @ v_BGME
