"""Which attention kernel runs: the fused one, or one with a second derivative."""
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_WANTED = ContextVar('twice_differentiable', default=False)


@contextmanager
def twice_differentiable(wanted: bool = True) -> Iterator[None]:
    """Inside, attention is made of plain operators and can be differentiated twice, at the price of the N x M map.

    The fused kernels of ``scaled_dot_product_attention`` (CPU flash, CUDA flash and memory-efficient) have a first
    derivative only. Where the backward pass itself is differentiated (gradient penalties, ``gradgradcheck``, the
    gradient of a log-determinant) the forward pass runs inside this context, which selects the MATH backend.
    Kernels of this package with a hand-written backward ask :func:`second_derivative_wanted`. Exporters, which know no
    operators but torch's, trace inside this context too.

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


def second_derivative_wanted() -> bool:
    """Whether the caller is inside :func:`twice_differentiable`.

    False while dynamo reads the code, which cannot read a context variable: what it compiles has no second derivative.
    """
    return not torch.compiler.is_dynamo_compiling() and _WANTED.get()
