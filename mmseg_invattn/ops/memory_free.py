"""Backpropagation through invertible steps that keeps only the output and recovers the activations from it.

The backward pass goes through the steps from the last to the first (:mod:`.steps`). At any time only the graph of one
step is in memory. The gradient is that of ordinary backpropagation, up to the accuracy of the recovered x.

The random numbers and the autocast settings of the forward pass are restored around every evaluation, as checkpointing
does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .fingerprint import fingerprint, same
from .precision import full_precision
from .steps import Move, Output, Step, joined, owned, split


@dataclass
class _Notes:
    """What the forward pass stores for the backward pass, besides outputs, parameters and buffers."""

    drawn: list[list[Tensor] | None] = field(default_factory=list)  # generator states before each random step
    kept: list[Tensor | None] = field(default_factory=list)  # what each step keeps for its way back
    values: list[Tensor] = field(default_factory=list)  # fingerprint of parameters and buffers
    autocast: Callable[[], AbstractContextManager] = nullcontext  # autocast as in the forward pass


def memory_free(steps: Sequence[Step | Move], x: Tensor) -> tuple[Tensor, ...]:
    """Applies the steps one after the other to the trunk, without keeping their activations.

    Outputs are (trunk, further outputs in the order of the steps). The streams have the dtype of x; each step decides
    itself whether it follows autocast.

    Raises:
        ValueError: x does not have the number of channels that a coupling needs.
        RuntimeError: in the backward pass, if a parameter or a buffer has changed since the forward pass (x cannot be
            recovered then), or if the gradient is to be differentiated again. Autograd's version counters detect a
            change, except those made by fused optimisers and through ``.data``. On the CPU the values are compared as
            well; on other devices that would have to wait for the queue.
    """
    parameters = tuple({id(p): p for step in steps for p in step.parameters() if p.requires_grad}.values())
    return _MemoryFree.apply(tuple(steps), _Notes(), x, *parameters)


class _MemoryFree(torch.autograd.Function):
    @staticmethod
    def forward(steps: tuple[Step | Move, ...], notes: _Notes, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        streams, extra, aside, before = (x,), [], [], _generators(x.device)
        notes.autocast = _autocast_of_now(x.device)
        for step in steps:
            if isinstance(step, Move):
                streams = step.forward(streams, aside, owned)
                notes.kept.append(None)
                notes.drawn.append(None)
                continue
            streams, rest, kept = step.forward(owned(streams, step.halves))
            extra += rest
            notes.kept.append(kept)
            after = _generators(x.device)
            notes.drawn.append(None if all(map(torch.equal, before, after)) else before)
            before = after
        if x.device.type == 'cpu':
            notes.values = fingerprint(_state(steps))
        # If an output shared its storage with x, autograd would not know about it.
        storage = x.untyped_storage()._cdata
        outputs = (joined(streams), *extra)
        return tuple(y.clone() if y.untyped_storage()._cdata == storage else y for y in outputs)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.steps, ctx.notes, _, *ctx.parameters = inputs
        ctx.save_for_backward(*output, *(t for t in _state(ctx.steps) if t.is_floating_point()))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # The recovered x is not part of a graph: a second derivative would silently lack its terms.
            raise RuntimeError(
                'the gradient of a memory-free module cannot be differentiated again (create_graph=True): use the '
                'plain module where you need a second derivative'
            )
        notes = ctx.notes
        _check_state(ctx.steps, ctx.parameters, notes.values)
        trunk, *extra = ctx.saved_tensors[: len(grads)]
        d_trunk, *d_extra = grads
        streams, d_streams = (trunk,), (d_trunk,)
        aside, d_aside = [], []
        known, d_parameters = {id(p) for p in ctx.parameters}, {}
        for step, drawn, kept in zip(*map(reversed, (ctx.steps, notes.drawn, notes.kept)), strict=True):
            if isinstance(step, Move):
                streams = step.backward(streams, aside, owned)
                d_streams = step.backward(d_streams, d_aside, split)
                continue
            cut = len(extra) - step.extra_outputs
            y = Output(owned(streams, step.halves), extra[cut:], kept)
            d_y = Output(split(d_streams, step.halves), d_extra[cut:])
            extra, d_extra = extra[:cut], d_extra[:cut]
            wanted = [p for p in step.parameters() if id(p) in known]
            replay = partial(_replayed, notes.autocast, drawn, trunk.device)
            with full_precision(trunk.device):
                streams, d_streams, d_wanted = step.backward(y, d_y, wanted, replay)
            del y, d_y
            for p, d in zip(wanted, d_wanted, strict=True):
                if d is not None:  # as in plain backpropagation, a parameter that is not used has no gradient
                    d_parameters[id(p)] = d_parameters[id(p)] + d if id(p) in d_parameters else d
        return None, None, joined(d_streams), *(d_parameters.get(id(p)) for p in ctx.parameters)


def _state(steps: Sequence[Step | Move]) -> Iterator[Tensor]:
    for step in steps:
        yield from step.parameters()
        yield from step.buffers()


def _check_state(steps: Sequence[Step | Move], parameters: Sequence[Tensor], values: list[Tensor]) -> None:
    """Raises RuntimeError if the map has changed since the forward pass."""
    current = {id(p) for step in steps for p in step.parameters()}
    if not all(id(p) in current for p in parameters):
        raise RuntimeError(
            'the parameters of a memory-free module were replaced between forward and backward '
            '(functional_call, load_state_dict with assign=True), so the activations cannot be recovered: '
            'call backward() before they are replaced, or use the plain module'
        )
    if not values:
        return
    now = fingerprint(_state(steps))
    if len(now) != len(values) or not same(now, values):
        raise RuntimeError(
            'a parameter or buffer was changed between forward and backward, so the activations cannot be '
            'recovered: call backward() before optimizer.step() and before another forward pass that '
            'changes buffers (power iteration)'
        )


def _generators(device: torch.device) -> list[Tensor]:
    """The states of the random generators that a step on the device may draw from."""
    states = [torch.get_rng_state()]
    if device.type != 'cpu':
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


@contextmanager
def _replayed(
    autocast: Callable[[], AbstractContextManager], states: list[Tensor] | None, device: torch.device
) -> Iterator[None]:
    """Restores autocast as in the forward pass, and the random numbers if the forward pass drew any."""
    with autocast(), nullcontext() if states is None else _drawn_again(states, device):
        yield


@contextmanager
def _drawn_again(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Sets the generators to the given states inside, and back to their present states afterwards."""
    saved = _generators(device)
    _set_generators(states, device)
    try:
        yield
    finally:
        _set_generators(saved, device)


def _autocast_of_now(device: torch.device) -> Callable[[], AbstractContextManager]:
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    # No cache across evaluations: a weight that was cast without gradients would be used where gradients are needed.
    return partial(torch.autocast, device.type, dtype, enabled, cache_enabled=False)


def _set_generators(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != 'cpu':
        torch.get_device_module(device).set_rng_state(states[1], device)
