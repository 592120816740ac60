"""Parameters of a module: returning them as outputs, listing them, and the dtype of the computation."""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from ..ops import at_least_float32


def given_out(parameter: Tensor) -> Tensor:
    """The parameter in float32 or higher, as a tensor that is not a leaf.

    Flop counters and other module hooks read ``grad_fn`` of every output that requires a gradient.
    """
    # with gradients disabled, a view of a leaf would still require a gradient
    return at_least_float32(parameter.view_as(parameter) if torch.is_grad_enabled() else parameter.detach())


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """The parameters of a module and its children, also for a replica of DataParallel, which hides them."""
    for part in module.modules():
        parameters = getattr(part, '_former_parameters', None) or part._parameters
        yield from (p for p in parameters.values() if p is not None)


def compute_dtype(module: nn.Module, x: Tensor) -> torch.dtype:
    """The widest dtype of the features and the parameters, at least float32."""
    return reduce(
        torch.promote_types, (p.dtype for p in parameters_of(module)), torch.promote_types(x.dtype, torch.float32)
    )
