"""Precision of an invertible map.

Autocast and TF32 round the branch to 8 to 11 bits, so an error bound for float32 would not hold. Therefore forward pass
and inverse compute in float32 whatever the caller's settings are. With ``precision='autocast'`` the forward pass of the
branch follows these settings, and the error bound includes the additional rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Weights = TypeVar('Weights')  # nested tuples of tensors
P = ParamSpec('P')
T = TypeVar('T')

PRECISIONS = ('float32', 'autocast')  # of a branch in the forward pass


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in the dtype of their inputs: no autocast, no TF32 on CUDA."""
    # only if autocast is on: torch.export cannot save a graph that switches autocast
    with torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext():
        if device.type != 'cuda':
            yield
            return
        switches = untraced(_tf32_switches)()  # dynamo cannot trace a getter that raises
        saved = [getattr(owner, name) for owner, name, _ in switches]
        try:
            for owner, name, off in switches:
                setattr(owner, name, off)
            yield
        finally:
            for (owner, name, _), value in zip(switches, saved, strict=True):
                setattr(owner, name, value)


def branch_precision(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which to evaluate a branch: :func:`full_precision`, or none, so that the caller's settings hold.

    Args:
        precision: one of :data:`PRECISIONS`.
    """
    return full_precision(device) if precision == 'float32' else nullcontext()


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """The function, excluded from ``torch.compile`` by a graph break while compiling; otherwise unchanged.

    ``torch.compiler.disable`` as a decorator would import dynamo, which takes as long as importing torch.
    """
    return cast(Any, torch.compiler.disable(function)) if torch.compiler.is_dynamo_compiling() else function


def at_least_float32(x: Tensor) -> Tensor:
    """x itself, or a float32 copy if x has half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def map_tensors(function: Callable[[Tensor], Tensor], weights: Any) -> Any:
    """Applies the function to every tensor in nested tuples.

    Other values are unchanged, and a tuple in which nothing changes is returned itself.
    """
    if isinstance(weights, Tensor):
        return function(weights)
    if isinstance(weights, tuple):
        parts = [map_tensors(function, part) for part in weights]
        if all(new is old for new, old in zip(parts, weights, strict=True)):
            return weights
        return type(weights)(*parts) if hasattr(weights, '_fields') else tuple(parts)
    return weights


def cast_all(weights: Weights, dtype: torch.dtype) -> Weights:
    """Casts every tensor in nested tuples to the dtype."""
    return map_tensors(lambda tensor: tensor.to(dtype), weights)


def differentiable_copies(weights: Weights) -> Weights:
    """Replaces tensors made in inference mode, which autograd refuses, by copies. Call it outside inference mode."""
    return map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, weights)


def _tf32_switches() -> list[tuple[object, str, object]]:
    """(owner, attribute, value without TF32); torch refuses to read the older flags once ``fp32_precision`` is set."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        _ = matmul.allow_tf32, cudnn.allow_tf32  # reading is the test
    except RuntimeError:
        return [(matmul, 'fp32_precision', 'ieee'), (cudnn.conv, 'fp32_precision', 'ieee')]
    return [(matmul, 'allow_tf32', False), (cudnn, 'allow_tf32', False)]
