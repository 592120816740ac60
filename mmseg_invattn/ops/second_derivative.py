"""Which attention kernel runs: the fused one with its first derivative, or plain operators with every derivative."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

_WANTED = ContextVar('twice_differentiable', default=False)


@contextmanager
def twice_differentiable(wanted: bool = True) -> Iterator[None]:
    """Inside, attention is made of plain operators and can be differentiated twice, at the price of the N x M map.

    The fused kernels of ``scaled_dot_product_attention`` (CPU flash, CUDA flash and memory-efficient) have a first
    derivative only. Where the backward pass itself is differentiated (gradient penalties, ``gradgradcheck``, the
    gradient of a log-determinant) the forward pass runs inside this context, which selects the MATH backend.
    Kernels of this package with a hand-written backward ask :func:`plain_operators_wanted`. Exporters, which know no
    operators but torch's, trace inside this context too. Forward mode and ``torch.func`` need no context.

    Args:
        wanted: False leaves the choice of the surroundings as it is.
    """
    if not wanted:
        yield
        return
    token = _WANTED.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _WANTED.reset(token)


def plain_operators_wanted() -> bool:
    """Whether the caller is inside :func:`twice_differentiable`, or :func:`transformed`.

    Dynamo cannot read a context variable: what it compiles has no second derivative, except what it transforms.
    """
    return transformed() or (not torch.compiler.is_dynamo_compiling() and _WANTED.get())


def transformed() -> bool:
    """Whether forward mode or a transform of ``torch.func`` is active: there plain operators alone are right.

    Torch's fused kernels refuse a tangent, and custom operators drop it without a word. An ``autograd.Function`` with a
    ``jvp`` does so too where forward mode is nested in forward mode.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def recorded(*tensors: Tensor) -> bool:
    """Whether autograd records what is made of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def once_differentiable(out: Tensor) -> Tensor:
    """The output of a fused kernel, made to refuse to have its gradient differentiated.

    Torch would name one of its own operators, and only in the second pass. A hook takes neither a copy nor a view. A
    compiled graph refuses by itself.
    """
    if out.requires_grad and not torch.compiler.is_compiling():
        out.register_hook(_refuse)
    return out


def _refuse(grad: Tensor) -> None:
    if torch.is_grad_enabled() or (transformed() and forward_ad.unpack_dual(grad).tangent is not None):
        raise RuntimeError(
            'the fused attention kernel has no second derivative: run the forward pass inside '
            'mmseg_invattn.ops.twice_differentiable()'
        )
