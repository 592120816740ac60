"""Softmax attention, fused and dense.

Shape suffixes: B batch, G heads (channel groups), N queries, M keys, D query and key size, E value size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..second_derivative import once_differentiable, plain_operators_wanted
from .learned_logits import learned_logits_attention

MAX_PARTS = 8  # parts of the queries; each part needs a copy of the keys and values
BLOCK = 2**24  # numbers of the N x M map computed at a time in float64 on a GPU
MIN_WIDTH = 64  # narrower parts of the values cost more in repeated softmaxes than they save in channels of zeros


def softmax_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j softmax_j(q_i . k_j + beta_ij) v_j``, in O(N + M) memory where the device has a fused kernel.

    Scores are ``q . k`` as given: the caller applies the scale. If there is one group of keys, all groups of queries
    share it. The kernel is chosen from shapes, dtype and device, and is the same with and without gradients. Fused
    kernels have no second derivative. Inside :func:`~mmseg_invattn.ops.twice_differentiable`, in forward mode and under
    ``torch.func`` the MATH backend is used, which has one and builds the N x M map.

    Returns:
        Tensor of shape (B, G, N, E).
    """
    if k_BGMD.shape[1] != q_BGND.shape[1]:
        k_BGMD = k_BGMD.expand(-1, q_BGND.shape[1], -1, -1)
    beta = logits_GNM
    if beta is not None:
        beta = beta.to(q_BGND.dtype)[(None,) * (4 - beta.dim())]  # fused kernels need four dimensions
    if plain_operators_wanted():
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q_BGND, k_BGMD, v_BGME, attn_mask=beta, scale=1.0)
    # The fused kernels need contiguous queries, keys and values of one width, a multiple of 8 on CUDA. Given transposed
    # views or another width, torch silently builds the N x M map instead. So wide values are split into parts of that
    # width, and narrower tensors are filled with zeros.
    size, n_values = q_BGND.shape[-1], v_BGME.shape[-1]
    pieces = max(round(n_values / max(size, MIN_WIDTH)), 1)
    width = -(-max(size, -(-n_values // pieces)) // 8) * 8
    q, k = _filled(q_BGND, width), _filled(k_BGMD, width)
    parts = _parts(q) if beta is None else 1
    q, k = _in_parts(q, parts), _for_parts(k, parts)
    out = [_attend(q, k, _for_parts(_filled(v, width), parts), beta) for v in v_BGME.split(width, -1)]
    out = out[0] if len(out) == 1 else torch.cat(out, -1)
    if parts > 1:
        out = out.unflatten(0, (-1, parts)).transpose(1, 2).flatten(2, 3)[:, :, : q_BGND.shape[2]]
    return out[..., :n_values]


def _attend(q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None) -> Tensor:
    if beta is not None and beta.requires_grad:
        return learned_logits_attention(q, k, v, beta)
    if q.dtype == torch.float64 and q.device.type != 'cpu' and not torch.is_grad_enabled():
        return attend_in_blocks(q, k, v, beta)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=beta, scale=1.0)
    # If torch used plain operators, grad_fn is that of a matrix product, which has a second derivative.
    node = None if torch.compiler.is_compiling() else out.grad_fn
    fused = node is not None and node.name().startswith('ScaledDotProduct')
    return once_differentiable(out) if fused else out


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, numbers: int = BLOCK) -> Tensor:
    """The same in blocks of queries, without the whole N x M map: fused kernels of a GPU do not support float64.

    Args:
        numbers: how many numbers of the map a block has.
    """
    rows = max(numbers // (q.shape[0] * q.shape[1] * k.shape[2]), 1)
    parts = []
    for first in range(0, q.shape[2], rows):
        count = min(rows, q.shape[2] - first)
        scores = q.narrow(2, first, count) @ k.mT
        scores = scores if beta is None else scores + beta.narrow(2, first, count)
        parts.append(scores.softmax(-1) @ v)
    return torch.cat(parts, 2)


def _parts(q: Tensor) -> int:
    """Number of parts of the queries: the backward pass on a CPU uses one thread for each sample and head."""
    if q.device.type != 'cpu' or torch.compiler.is_compiling():
        return 1
    return max(min(torch.get_num_threads() // (q.shape[0] * q.shape[1]), MAX_PARTS, q.shape[2]), 1)


def _in_parts(q_BGND: Tensor, parts: int) -> Tensor:
    """Parts of the queries as separate samples, (B parts, G, N / parts, D), padded with zeros at the end."""
    if parts == 1:
        return q_BGND
    q = F.pad(q_BGND, (0, 0, 0, -q_BGND.shape[2] % parts))
    return q.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1)


def _for_parts(x_BGMD: Tensor, parts: int) -> Tensor:
    """The same keys or values for every part."""
    return x_BGMD if parts == 1 else x_BGMD.repeat_interleave(parts, 0)


def _filled(x: Tensor, width: int) -> Tensor:
    """x, contiguous, with channels of zeros appended up to the width."""
    return (x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))).contiguous()


def softmax_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = q_i . k_j``, shape (B, G, N, M)."""
    return q_BGND @ k_BGMD.mT


def softmax_attention_dense(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """:func:`softmax_attention` from its definition, with the N x M map: the reference for the tests."""
    return (q_BGND @ k_BGMD.mT + (0 if logits_GNM is None else logits_GNM)).softmax(-1) @ v_BGME
