"""Attention with a positive function of the score, in blocks of queries; the backward pass recomputes the blocks.

    out_i = sum_j w_ij v_j / z_i,   z_i = sum_j w_ij,   t_ij = q_i . k_j
    certified:  w_ij = (ELU(t_ij) + 1) e^beta_ij = (1 + max(t_ij, 0)) e_ij,   e_ij = exp(min(t_ij, 0) + beta_ij - s_i)
    paper:      w_ij = ELU(t_ij) = max(t_ij, 0) + e_ij - 1,                   e_ij = exp(min(t_ij, 0))

The shift ``s_i = max_j (min(t_ij, 0) + beta_ij)`` cancels in the quotient. With it the largest e_ij is 1, so a row in
which all scores are very negative does not give 0 / 0. The paper's normaliser has no such shift and may be 0.

With the gradient G of out, ``a_i = G_i / z_i`` and ``b_i = -a_i . out_i`` (the normaliser's part):

    dL/dw_ij = d_ij = a_i . v_j + b_i,    dL/dt_ij = d_ij e_ij    (e is w' in both),    dL/dbeta_ij = d_ij w_ij
    dq_i = sum_j dL/dt_ij k_j,    dk_j = sum_i dL/dt_ij q_i,    dv_j = sum_i w_ij a_i

On a GPU, the certified weights without beta are computed by ``triton_blocked_positive.py`` where ``triton_choice.py``
allows it.

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size. beta is (B or 1, G or 1, N, M).
"""

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from ..second_derivative import once_differentiable
from .triton_choice import triton_kernels

# Numbers in a block of weights. CPU: a block and the two other tensors of its size stay in the cache. CUDA: enough
# work per launch.
BLOCK = {'cpu': 2**20, 'cuda': 2**26}
MIN_ROWS = 16


def blocked_positive_attention(
    q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None, elu: bool = False
) -> Tensor:
    """``sum_j w_ij v_j / sum_j w_ij``, shape (B, G, N, E), in O(N + M) memory in addition to the logits.

    Sums are accumulated in float32 or higher, also under autocast. There is a first derivative only.

    Args:
        logits_GNM: beta, (G, N, M) or anything that broadcasts to (B, G, N, M); -inf excludes a key. Its gradient is
            an N x M map, like beta itself.
        elu: use the paper's weights instead of the certified ones; only without logits.
    """
    dtype = v_BGME.dtype
    common = torch.promote_types(torch.promote_types(q_BGND.dtype, k_BGMD.dtype), dtype)
    groups = torch.broadcast_shapes(q_BGND.shape[:2], k_BGMD.shape[:2], v_BGME.shape[:2])
    q, k, v = (x.to(common).expand(*groups, -1, -1).contiguous() for x in (q_BGND, k_BGMD, v_BGME))
    beta = logits_GNM
    if beta is not None:
        beta = beta.to(_wide(common)).expand(*beta.shape[:-2], q.shape[2], k.shape[2])
        beta = beta[(None,) * (4 - beta.dim())]
    return once_differentiable(_blocked_positive(q, k, v, beta, elu)[0]).to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated."""
    return torch.promote_types(dtype, torch.float32)


def _triton(q: Tensor, v: Tensor, beta: Tensor | None, elu: bool) -> ModuleType | None:
    if beta is not None or elu:
        return None
    return triton_kernels(q.device, q.dtype, q.shape[-1], v.shape[-1], (_forward, _backward))


def _blocks(device: str, batch: int, groups: int, n: int, m: int) -> Iterator[tuple[slice, slice]]:
    """Slices of (samples, queries): several samples if they are small, else part of the queries of one sample."""
    numbers = BLOCK.get(device, BLOCK['cuda'])
    samples = min(max(numbers // (groups * n * m), 1), batch)
    rows = min(max(numbers // (samples * groups * m), MIN_ROWS), n)
    for first in range(0, batch, samples):
        for row in range(0, n, rows):
            yield slice(first, first + samples), slice(row, row + rows)


def _part(beta: Tensor, samples: slice, rows: slice) -> Tensor:
    """The logits of a block; logits that all samples share have a batch size of 1."""
    return beta[samples if len(beta) > 1 else slice(None), :, rows]


def _weigh(t: Tensor, beta: Tensor | None, elu: bool, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(e, w, s) of a block. Overwrites the scores t."""
    e = t.clamp(max=0)
    t.clamp_(min=0)
    if elu:
        e.expm1_()  # exp(t) - 1 would cancel for small scores
        t.add_(e)
        return e.add_(1), t, t.new_zeros(*t.shape[:-1], 1)
    if beta is not None:
        e.add_(beta)
    if shift is None:
        shift = e.amax(-1, keepdim=True)
    e.sub_(shift).exp_()
    return e, t.add_(1).mul_(e), shift


@torch.library.custom_op('mmseg_invattn::blocked_positive', mutates_args=())
def _blocked_positive(q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, elu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(out, z, s) in float32 or higher; q, k and v are contiguous and of one dtype."""
    kernels = _triton(q, v, beta, elu)
    return _forward(q, k, v, beta, elu) if kernels is None else kernels.forward(q, k, v)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None = None, elu: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.to(_wide(x.dtype)) for x in (q, k, v))
    batch, groups, n, _ = q.shape
    m, size = v.shape[2:]
    out, z, s = (q.new_empty(batch, groups, n, last) for last in (size, 1, 1))
    with torch.autocast(q.device.type, enabled=False):
        for samples, rows in _blocks(q.device.type, batch, groups, n, m):
            t = q[samples, :, rows] @ k[samples].mT
            _, w, shift = _weigh(t, None if beta is None else _part(beta, samples, rows), elu)
            total = w.sum(-1, keepdim=True)
            out[samples, :, rows] = (w @ v[samples]).div_(total)
            z[samples, :, rows], s[samples, :, rows] = total, shift
    return out, z, s


@_blocked_positive.register_fake
def _(q, k, v, beta, elu):
    return tuple(q.new_empty(*q.shape[:3], last, dtype=_wide(q.dtype)) for last in (v.shape[-1], 1, 1))


@torch.library.custom_op('mmseg_invattn::blocked_positive_backward', mutates_args=())
def _blocked_positive_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    out: Tensor,
    z: Tensor,
    s: Tensor,
    elu: bool,
    beta_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dq, dk, dv, dbeta), the first three in the dtype of the inputs; dbeta is empty if it is not wanted."""
    kernels = _triton(q, v, beta, elu)
    if kernels is not None:
        return *kernels.backward(grad, q, k, v, out, z, s), grad.new_empty(0)
    dq, dk, dv, dbeta = _backward(grad, q, k, v, out, z, s, beta, elu, beta_wanted)
    return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), dbeta


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    z: Tensor,
    s: Tensor,
    beta: Tensor | None = None,
    elu: bool = False,
    beta_wanted: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (x.to(_wide(x.dtype)) for x in (q, k, v))
    batch, groups, n, _ = q.shape
    m = k.shape[2]
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dbeta = q.new_zeros(0 if beta is None or not beta_wanted else beta.shape)
    with torch.autocast(q.device.type, enabled=False):
        a = grad / z
        b = -(a * out).sum(-1, keepdim=True)
        for samples, rows in _blocks(q.device.type, batch, groups, n, m):
            part = samples, slice(None), rows
            flat_q, flat_a, flat_b = (x[part].flatten(0, 1) for x in (q, a, b))
            flat_k, flat_v = k[samples].flatten(0, 1), v[samples].flatten(0, 1)
            t = (flat_q @ flat_k.mT).unflatten(0, (-1, groups))
            part_of_beta = None if beta is None else _part(beta, samples, rows)
            e, w, _ = (x.flatten(0, 1) for x in _weigh(t, part_of_beta, elu, s[part]))
            dv[samples].flatten(0, 1).baddbmm_(w.mT, flat_a)
            d = torch.baddbmm(flat_b, flat_a, flat_v.mT)
            if beta_wanted:
                place = _part(dbeta, samples, rows)
                place += w.mul_(d).unflatten(0, (-1, groups)).sum_to_size(place.shape)
            e.mul_(d)
            dq[part] = (e @ flat_k).unflatten(0, (-1, groups))
            dk[samples].flatten(0, 1).baddbmm_(e.mT, flat_q)
    return dq, dk, dv, dbeta


@_blocked_positive_backward.register_fake
def _(grad, q, k, v, beta, out, z, s, elu, beta_wanted):
    dbeta = grad.new_empty(beta.shape if beta_wanted else 0)
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), dbeta


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.elu = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    *tensors, out, z, s = ctx.saved_tensors
    beta_wanted = ctx.needs_input_grad[3]
    dq, dk, dv, dbeta = _blocked_positive_backward(grad.contiguous(), *tensors, out, z, s, ctx.elu, beta_wanted)
    return dq, dk, dv, dbeta if beta_wanted else None, None


_blocked_positive.register_autograd(_differentiate, setup_context=_save)
