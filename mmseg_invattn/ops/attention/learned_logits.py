"""Softmax attention whose logits learn: the fused forward kernel, and a backward pass in blocks of queries.

Torch's fused kernels have no gradient of their mask and step aside for plain operators where one is asked for. Then the
forward pass with gradients would round otherwise than one without, and a coupling could not take back what it added.
Here one kernel serves both, and no N x M map is held but the logits' own.

With P the weights and G the gradient of ``out = P v``

    D = G v^T - (G . out) 1^T,    dS = P * D,    dq = dS k,    dk = dS^T q,    dv = P^T G,    dbeta = dS

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size. beta is (B or 1, G or 1, N, M).
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..second_derivative import once_differentiable

BLOCK = 2**18  # weights of a head and sample at a time


def learned_logits_attention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """``softmax(q k^T + beta) v``, shape (B, G, N, E), with a gradient of all four; a first derivative only."""
    return once_differentiable(_LearnedLogits.apply(q, k, v, beta))


class _LearnedLogits(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
        # torch asks whether the mask wants a gradient, whatever the mode
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
        # out of place, for gradients that come in batches
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
