"""Softmax attention with learned logits: the fused forward kernel, and a backward pass in blocks of queries.

Torch's fused kernels have no gradient of their mask; if one is needed, torch uses plain operators instead. Then a
forward pass with gradients would round differently from one without, and a coupling could not subtract exactly what it
added. Here both use the same kernel, and the only N x M map in memory is that of the logits.

With P the weights and G the gradient of ``out = P v``

    D = G v^T - (G . out) 1^T,    dS = P * D,    dq = dS k,    dk = dS^T q,    dv = P^T G,    dbeta = dS

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size. beta is (B or 1, G or 1, N, M).
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..second_derivative import once_differentiable

BLOCK = 2**18  # weights computed at a time, for each head and sample


def learned_logits_attention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """``softmax(q k^T + beta) v``, shape (B, G, N, E), with gradients for all four inputs; a first derivative only."""
    return once_differentiable(_LearnedLogits.apply(q, k, v, beta))


class _LearnedLogits(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
        # torch checks whether the mask requires a gradient even where gradients are disabled
        q, k, v, beta = (t.detach() for t in (q, k, v, beta))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=beta, scale=1.0)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, out = ctx.saved_tensors
        inner = (grad * out).sum(-1, keepdim=True)
        rows = -(-BLOCK // k.shape[2])
        parts: tuple[list[Tensor], ...] = ([], [], [], [])
        # not in place, because gradients may come in batches (vmap)
        for first in range(0, q.shape[2], rows):
            count = min(rows, q.shape[2] - first)
            q_rows, grad_rows, beta_rows, inner_rows = (t.narrow(2, first, count) for t in (q, grad, beta, inner))
            p = (q_rows @ k.mT + beta_rows).softmax(-1)
            ds = p * (grad_rows @ v.mT - inner_rows)
            new = ds @ k, ds.mT @ q_rows, p.mT @ grad_rows, ds.sum_to_size(beta_rows.shape)
            for part, more in zip(parts, new, strict=True):
                part.append(more)
        dq, dk, dv, dbeta = parts
        return torch.cat(dq, 2), reduce(torch.add, dk), reduce(torch.add, dv), torch.cat(dbeta, 2)
