"""Feature maps as tokens, and where their numbers lie in memory."""

import torch
from torch import Tensor

from .second_derivative import recorded, transformed

IN_CACHE = 2**14  # numbers of a matrix that is transposed as fast without tiles


def pixel_tokens(x_BCHW: Tensor) -> Tensor:
    """Pixels as the tokens of one group, row by row, (B, 1, N, C); a view."""
    return x_BCHW.flatten(2).mT[:, None]


def transposed(x: Tensor) -> Tensor:
    """``x.mT`` as a tensor that is contiguous, and so is its gradient.

    Elementwise operations on two tensors that lie the one by channels and the other by pixels take over ten times as
    long as on two that lie alike; a transposed view would leave the backward pass with just that.
    """
    if transformed():
        return x.mT.contiguous()
    return _Transposed.apply(x) if recorded(x) else _transposed(x)


def _transposed(x: Tensor) -> Tensor:
    small = x.dim() < 3 or x.shape[-2] * x.shape[-1] <= IN_CACHE
    if small or x.device.type != 'cpu' or torch.compiler.is_compiling():
        return x.mT.contiguous()  # a graph with one matrix for each sample would fix the batch size
    # On the CPU torch transposes matrices in tiles, and batches of them number by number.
    matrices = [matrix.mT.contiguous() for matrix in x.reshape(-1, *x.shape[-2:]).unbind()]
    out = matrices[0] if len(matrices) == 1 else torch.stack(matrices)
    return out.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2])


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _transposed(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return transposed(grad)  # the map is its own transpose
