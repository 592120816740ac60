"""Feature maps as tokens, and their layout in memory."""

import torch
from torch import Tensor

from .second_derivative import recorded, transformed

IN_CACHE = 2**14  # up to this many numbers, a matrix is transposed as fast without tiles


def pixel_tokens(x_BCHW: Tensor) -> Tensor:
    """A view of the pixels as tokens of one group, row by row, (B, 1, N, C)."""
    return x_BCHW.flatten(2).mT[:, None]


def transposed(x: Tensor) -> Tensor:
    """``x.mT`` as a contiguous tensor, whose gradient is contiguous too.

    An elementwise operation takes over ten times as long if one tensor is stored by channels and the other by pixels,
    compared with two tensors of the same layout. A transposed view would cause that in the backward pass.
    """
    if transformed():
        return x.mT.contiguous()
    return _Transposed.apply(x) if recorded(x) else _transposed(x)


def _transposed(x: Tensor) -> Tensor:
    small = x.dim() < 3 or x.shape[-2] * x.shape[-1] <= IN_CACHE
    if small or x.device.type != 'cpu' or torch.compiler.is_compiling():
        return x.mT.contiguous()  # a compiled graph that unbinds the samples would fix the batch size
    # On the CPU torch transposes a single matrix in tiles, but a batch of matrices number by number.
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
