"""Softmax attention, fused and dense.

Shape suffixes: B batch, G heads (channel groups), N queries, M keys, D query and key size, E value size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..second_derivative import once_differentiable, plain_operators_wanted
from .learned_logits import learned_logits_attention

MAX_PARTS = 8  # of the queries; each takes a copy of the keys and values
BLOCK = 2**24  # numbers of the map in float64 at a time, on a GPU
MIN_WIDTH = 64  # narrower parts of the values cost more in repeated softmaxes than they save in channels of zeros


def softmax_attention(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j softmax_j(q_i . k_j + beta_ij) v_j``, in O(N + M) memory where the device has a fused kernel.

    The scale belongs to the caller: scores are ``q . k`` as given. One group of keys serves all groups of queries. The
    kernel is chosen from shapes, dtype and device, with gradients and without. The fused ones have no second
    derivative; inside :func:`~mmseg_invattn.ops.twice_differentiable`, in forward mode and under ``torch.func`` torch
    takes the MATH backend, which has one and holds the N x M map.

    Returns:
        Tensor of shape (B, G, N, E).
    """
    if k_BGMD.shape[1] != q_BGND.shape[1]:
        k_BGMD = k_BGMD.expand(-1, q_BGND.shape[1], -1, -1)
    beta = logits_GNM
    if beta is not None:
        beta = beta.to(q_BGND.dtype)[(None,) * (4 - beta.dim())]  # three dimensions are none of the fused kernels'
    if plain_operators_wanted():
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q_BGND, k_BGMD, v_BGME, attn_mask=beta, scale=1.0)
    # The fused kernels take contiguous queries, keys and values of one width, a multiple of 8 on CUDA; with transposed
    # views or another width torch falls back to the N x M map silently. So wide values go in parts, and zeros fill up.
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
    # Where torch took plain operators the node is that of a product, and has a second derivative.
    node = None if torch.compiler.is_compiling() else out.grad_fn
    fused = node is not None and node.name().startswith('ScaledDotProduct')
    return once_differentiable(out) if fused else out


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, numbers: int = BLOCK) -> Tensor:
    """The same in blocks of queries: the fused kernels of a GPU know no float64, and the N x M map is not held.

    Args:
        numbers: in a block of the map.
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
    """In how many parts to take the queries: the CPU's backward pass gives each sample and head to one thread."""
    if q.device.type != 'cpu' or torch.compiler.is_compiling():
        return 1
    return max(min(torch.get_num_threads() // (q.shape[0] * q.shape[1]), MAX_PARTS, q.shape[2]), 1)


def _in_parts(q_BGND: Tensor, parts: int) -> Tensor:
    """Parts of the queries as samples of their own, (B parts, G, N / parts, D), zeros at the end."""
    if parts == 1:
        return q_BGND
    q = F.pad(q_BGND, (0, 0, 0, -q_BGND.shape[2] % parts))
    return q.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1)


def _for_parts(x_BGMD: Tensor, parts: int) -> Tensor:
    """The same keys or values for every part."""
    return x_BGMD if parts == 1 else x_BGMD.repeat_interleave(parts, 0)


def _filled(x: Tensor, width: int) -> Tensor:
    """x with channels of zeros up to the width."""
    return (x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))).contiguous()


def softmax_log_weights(q_BGND: Tensor, k_BGMD: Tensor) -> Tensor:
    """``log w_ij = q_i . k_j``, shape (B, G, N, M)."""
    return q_BGND @ k_BGMD.mT


def softmax_attention_dense(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition, with the N x M map: the reference of the tests."""
    return (q_BGND @ k_BGMD.mT + (0 if logits_GNM is None else logits_GNM)).softmax(-1) @ v_BGME
