"""Backpropagation through invertible steps that keeps the output and recovers the activations.

Backward, step by step from the last: the weights are derived once, with a graph; ``x = step^-1(y)`` with their values;
then the step is evaluated again with a graph, and ``dL/dx, dL/dtheta`` come from that one graph, which is dropped
before the next step. What is held at any time is the graph of one step. The gradient is that of ordinary
backpropagation, to the accuracy of the recovered x.

A step that draws random numbers draws the same ones again: the state of the generators is restored, as checkpointing
does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fingerprint import fingerprint, same
from .precision import full_precision


class Step(NamedTuple):
    """One invertible map.

    Attributes:
        forward: (x, weights) -> (trunk, further outputs...); weights are None in the forward pass, where the step
            derives its own.
        inverse: ((trunk, further outputs...), weights) -> x.
        weights: derives from the parameters what both of them use, differentiably.
        parameters: what the forward pass uses and the backward pass differentiates.
        buffers: what else the map depends on.
        extra_outputs: how many outputs there are beside the trunk.
    """

    forward: Callable[[Tensor, Any], tuple[Tensor, ...]]
    inverse: Callable[[tuple[Tensor, ...], Any], Tensor]
    weights: Callable[[], Any]
    parameters: Callable[[], tuple[Tensor, ...]]
    buffers: Callable[[], tuple[Tensor, ...]] = tuple
    extra_outputs: int = 0


@dataclass
class _Notes:
    """What the forward pass leaves for the backward pass beside tensors."""

    drawn: list[list[Tensor] | None] = field(default_factory=list)  # states of the generators before each step
    values: list[Tensor] = field(default_factory=list)  # fingerprint of parameters and buffers


def memory_free(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, ...]:
    """The steps one after the other on the trunk, without keeping their activations.

    Outputs are (trunk, further outputs in the order of the steps). Everything runs in the dtype of x and without
    autocast.

    Raises:
        RuntimeError: in backward, where a parameter or a buffer no longer is what it was in the forward pass (x cannot
            be recovered then), or where the gradient is to be differentiated again.
    """
    parameters = tuple({id(p): p for step in steps for p in step.parameters() if p.requires_grad}.values())
    return _MemoryFree.apply(tuple(steps), _Notes(), x, *parameters)


class _MemoryFree(torch.autograd.Function):
    @staticmethod
    def forward(steps: tuple[Step, ...], notes: _Notes, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        trunk, extra, before = x, [], _generators(x.device)
        with full_precision(x.device):
            for step in steps:
                trunk, *rest = step.forward(trunk, None)
                extra += rest
                after = _generators(x.device)
                notes.drawn.append(None if all(map(torch.equal, before, after)) else before)
                before = after
        notes.values = fingerprint(_state(steps))
        # An output that shares its storage with x would be an alias that autograd does not know of.
        storage = x.untyped_storage()._cdata
        return tuple(y.clone() if y.untyped_storage()._cdata == storage else y for y in (trunk, *extra))

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.steps, ctx.notes, _, *ctx.parameters = inputs
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # The recovered x hangs on no graph: a second derivative would silently lack its terms.
            raise RuntimeError(
                'create_graph=True through a memory-free module: its gradient cannot be differentiated '
                'again; use the plain module where a second derivative is wanted'
            )
        _check_state(ctx.steps, ctx.parameters, ctx.notes.values)
        (trunk, *extra), (d_trunk, *d_extra) = ctx.saved_tensors, grads
        known, d_parameters = {id(p) for p in ctx.parameters}, {}
        for step, drawn in zip(reversed(ctx.steps), reversed(ctx.notes.drawn), strict=True):
            cut = len(extra) - step.extra_outputs
            (extra, own), (d_extra, d_own) = (extra[:cut], extra[cut:]), (d_extra[:cut], d_extra[cut:])
            wanted = [p for p in step.parameters() if id(p) in known]
            with full_precision(trunk.device):
                with torch.enable_grad():
                    weights = step.weights()
                with torch.no_grad(), _replayed(drawn, trunk.device):
                    trunk = step.inverse((trunk, *own), weights)
                with torch.enable_grad(), _replayed(drawn, trunk.device):
                    trunk = trunk.detach().requires_grad_()
                    d_trunk, *d_step = torch.autograd.grad(
                        step.forward(trunk, weights), [trunk, *wanted], [d_trunk, *d_own], allow_unused=True
                    )
            for p, d in zip(wanted, d_step, strict=True):
                if d is not None:  # as in plain backpropagation, a parameter that is not used has no gradient
                    d_parameters[id(p)] = d_parameters[id(p)] + d if id(p) in d_parameters else d
        return None, None, d_trunk, *(d_parameters.get(id(p)) for p in ctx.parameters)


def _state(steps: Sequence[Step]) -> Iterator[Tensor]:
    for step in steps:
        yield from step.parameters()
        yield from step.buffers()


def _check_state(steps: Sequence[Step], parameters: Sequence[Tensor], values: list[Tensor]) -> None:
    """Refuses a backward pass through another map than that of the forward pass."""
    current = {id(p) for step in steps for p in step.parameters()}
    if not all(id(p) in current for p in parameters):
        raise RuntimeError(
            'the parameters of a memory-free module were replaced between forward and backward '
            '(functional_call, load_state_dict with assign=True): the activations cannot be recovered; '
            'call backward() inside, or use the plain module there'
        )
    now = fingerprint(_state(steps))
    if len(now) != len(values) or not same(now, values):
        raise RuntimeError(
            'a parameter or buffer was changed between forward and backward: the activations cannot be '
            'recovered; call backward() before optimizer.step() and before another forward pass that '
            'changes buffers (power iteration)'
        )


def _generators(device: torch.device) -> list[Tensor]:
    """The states of the random generators that a step on the device may draw from."""
    states = [torch.get_rng_state()]
    if device.type != 'cpu':
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


@contextmanager
def _replayed(states: list[Tensor] | None, device: torch.device) -> Iterator[None]:
    """Inside, the generators begin where they began then; afterwards they are where they were."""
    if states is None:
        yield
        return
    saved = _generators(device)
    _set_generators(states, device)
    try:
        yield
    finally:
        _set_generators(saved, device)


def _set_generators(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != 'cpu':
        torch.get_device_module(device).set_rng_state(states[1], device)
