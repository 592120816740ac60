"""Chooses the attention kernel: fused with a first derivative only, or plain operators with every derivative."""

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
    """Context in which attention uses plain operators: it can be differentiated twice, but builds the N x M map.

    The fused kernels of ``scaled_dot_product_attention`` (CPU flash, CUDA flash and memory-efficient) have a first
    derivative only. If the backward pass itself is differentiated (gradient penalties, ``gradgradcheck``, the
    gradient of a log-determinant), run the forward pass inside this context, which selects the MATH backend.
    Kernels of this package with a hand-written backward pass check :func:`plain_operators_wanted`. Exporters support
    only torch's own operators, so they trace inside this context too. Forward mode and ``torch.func`` need no context.

    Args:
        wanted: False makes this context do nothing.
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
    """Whether the caller is inside :func:`twice_differentiable`, or :func:`transformed` is true.

    Dynamo cannot read a context variable: compiled code ignores :func:`twice_differentiable`.
    """
    return transformed() or (not torch.compiler.is_dynamo_compiling() and _WANTED.get())


def transformed() -> bool:
    """Whether forward mode or a transform of ``torch.func`` is active: then only plain operators are correct.

    Torch's fused kernels raise an error for a tangent, and custom operators silently drop it. An ``autograd.Function``
    with a ``jvp`` also drops it if forward mode is nested in forward mode.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def recorded(*tensors: Tensor) -> bool:
    """Whether autograd records operations on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def once_differentiable(out: Tensor) -> Tensor:
    """Makes the output of a fused kernel raise an error if its gradient is to be differentiated.

    Without this, the error comes only in the second backward pass and names an internal operator of torch. A hook needs
    neither a copy nor a view. A compiled graph raises its own error.
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
