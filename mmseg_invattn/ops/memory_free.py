"""Backpropagation through invertible steps that keeps the output and recovers the activations.

Backward, step by step from the last: ``x = step^-1(y)``, then the step is evaluated again with a graph, then
``dL/dx, dL/dtheta`` come from that one graph, which is dropped before the next step. What is held at any time is the
graph of one step. The gradient is that of ordinary backpropagation, to the accuracy of the recovered x.
"""
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full_precision

_RECOMPUTING = ContextVar('recomputing', default=False)


def recomputing() -> bool:
    """Whether a step is evaluated again in the backward pass: what a forward pass changes must then stay as it is."""
    return _RECOMPUTING.get()


class Step(NamedTuple):
    """One invertible map.

    Attributes:
        forward: x -> (trunk, further outputs...).
        inverse: (trunk, further outputs...) -> x.
        parameters: what the forward pass uses and the backward pass differentiates.
        extra_outputs: how many outputs there are beside the trunk.
    """
    forward: Callable[[Tensor], tuple[Tensor, ...]]
    inverse: Callable[[tuple[Tensor, ...]], Tensor]
    parameters: tuple[Tensor, ...]
    extra_outputs: int = 0


def memory_free(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, ...]:
    """The steps one after the other on the trunk, without keeping their activations.

    Outputs are (trunk, further outputs in the order of the steps). Everything runs in the dtype of x and without
    autocast.

    Raises:
        RuntimeError: in backward, where a parameter was changed after the forward pass (x cannot be recovered then), or
            where the gradient is to be differentiated again.
    """
    parameters = tuple({id(p): p for step in steps for p in step.parameters if p.requires_grad}.values())
    return _MemoryFree.apply(tuple(steps), x, *parameters)


class _MemoryFree(torch.autograd.Function):

    @staticmethod
    def forward(ctx, steps: tuple[Step, ...], x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        extra = []
        with full_precision(x.device):
            trunk = x
            for step in steps:
                trunk, *rest = step.forward(trunk)
                extra += rest
        # An output that shares its storage with x would be an alias that autograd does not know of.
        outputs = tuple(y.clone() if y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else y
                        for y in (trunk, *extra))
        ctx.save_for_backward(*outputs)
        ctx.steps, ctx.parameters = steps, parameters
        ctx.versions = [p._version for p in parameters]
        return outputs

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # The recovered x hangs on no graph: a second derivative would silently lack its terms.
            raise RuntimeError('create_graph=True through a memory-free module: its gradient cannot be differentiated '
                               'again; use the plain module where a second derivative is wanted')
        if [p._version for p in ctx.parameters] != ctx.versions:
            raise RuntimeError('a parameter was changed in place between forward and backward: the activations cannot '
                               'be recovered; call backward() before optimizer.step()')
        (trunk, *extra), (d_trunk, *d_extra) = ctx.saved_tensors, grads
        d_parameters: dict[int, Tensor] = {}
        for step in reversed(ctx.steps):
            cut = len(extra) - step.extra_outputs
            (extra, own), (d_extra, d_own) = (extra[:cut], extra[cut:]), (d_extra[:cut], d_extra[cut:])
            wanted = [p for p in step.parameters if p.requires_grad]
            with full_precision(trunk.device):
                with torch.no_grad():
                    trunk = step.inverse((trunk, *own))
                with torch.enable_grad():
                    trunk = trunk.detach().requires_grad_()
                    d_trunk, *d_step = torch.autograd.grad(_again(step, trunk), [trunk, *wanted], [d_trunk, *d_own],
                                                           allow_unused=True)
            for p, d in zip(wanted, d_step, strict=True):
                if d is not None:  # as in plain backpropagation, a parameter that is not used has no gradient
                    d_parameters[id(p)] = d_parameters[id(p)] + d if id(p) in d_parameters else d
        return None, d_trunk, *(d_parameters.get(id(p)) for p in ctx.parameters)


def _again(step: Step, x: Tensor) -> tuple[Tensor, ...]:
    token = _RECOMPUTING.set(True)
    try:
        return step.forward(x)
    finally:
        _RECOMPUTING.reset(token)
