"""Backpropagation through invertible steps that keeps the output and recovers the activations.

The backward pass goes through the steps from the last to the first (:mod:`.steps`). What is held at any time is the
graph of one step. The gradient is that of ordinary backpropagation, to the accuracy of the recovered x.

A step that draws random numbers draws the same ones again, and one that follows autocast is evaluated under that of the
forward pass: both are restored around every evaluation, as checkpointing does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .fingerprint import fingerprint, same
from .precision import full_precision
from .steps import Output, Step, Streams


@dataclass
class _Notes:
    """What the forward pass leaves for the backward pass beside tensors."""

    drawn: list[list[Tensor] | None] = field(default_factory=list)  # states of the generators before each step
    kept: list[Tensor | None] = field(default_factory=list)  # by each step
    values: list[Tensor] = field(default_factory=list)  # fingerprint of parameters and buffers
    autocast: Callable[[], AbstractContextManager] = nullcontext  # that of the forward pass


def memory_free(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, ...]:
    """The steps one after the other on the trunk, without keeping their activations.

    Outputs are (trunk, further outputs in the order of the steps). The streams have the dtype of x; whether a step
    follows autocast is its own affair.

    Raises:
        ValueError: the channels of x are not those of a coupling.
        RuntimeError: in backward, where a parameter or a buffer no longer is what it was in the forward pass (x cannot
            be recovered then), or where the gradient is to be differentiated again. Autograd's own count of changes
            says so. It does not count those of fused optimisers and of ``.data``; on the CPU the values are compared
            as well, on other devices that would have to wait for their queue.
    """
    parameters = tuple({id(p): p for step in steps for p in step.parameters() if p.requires_grad}.values())
    return _MemoryFree.apply(tuple(steps), _Notes(), x, *parameters)


class _MemoryFree(torch.autograd.Function):
    @staticmethod
    def forward(steps: tuple[Step, ...], notes: _Notes, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        streams, extra, before = (x,), [], _generators(x.device)
        notes.autocast = _autocast_of_now(x.device)
        for step in steps:
            streams, rest, kept = step.forward(_owned(streams, step.halves))
            extra += rest
            notes.kept.append(kept)
            after = _generators(x.device)
            notes.drawn.append(None if all(map(torch.equal, before, after)) else before)
            before = after
        if x.device.type == 'cpu':
            notes.values = fingerprint(_state(steps))
        # An output that shares its storage with x would be an alias that autograd does not know of.
        storage = x.untyped_storage()._cdata
        outputs = (_joined(streams), *extra)
        return tuple(y.clone() if y.untyped_storage()._cdata == storage else y for y in outputs)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.steps, ctx.notes, _, *ctx.parameters = inputs
        ctx.save_for_backward(*output, *(t for t in _state(ctx.steps) if t.is_floating_point()))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # The recovered x hangs on no graph: a second derivative would silently lack its terms.
            raise RuntimeError(
                'create_graph=True through a memory-free module: its gradient cannot be differentiated '
                'again; use the plain module where a second derivative is wanted'
            )
        notes = ctx.notes
        _check_state(ctx.steps, ctx.parameters, notes.values)
        trunk, *extra = ctx.saved_tensors[: len(grads)]
        d_trunk, *d_extra = grads
        streams, d_streams = (trunk,), (d_trunk,)
        known, d_parameters = {id(p) for p in ctx.parameters}, {}
        for step, drawn, kept in zip(*map(reversed, (ctx.steps, notes.drawn, notes.kept)), strict=True):
            cut = len(extra) - step.extra_outputs
            y = Output(_owned(streams, step.halves), extra[cut:], kept)
            d_y = Output(_split(d_streams, step.halves), d_extra[cut:])
            extra, d_extra = extra[:cut], d_extra[:cut]
            wanted = [p for p in step.parameters() if id(p) in known]
            replay = partial(_replayed, notes.autocast, drawn, trunk.device)
            with full_precision(trunk.device):
                streams, d_streams, d_wanted = step.backward(y, d_y, wanted, replay)
            del y, d_y
            for p, d in zip(wanted, d_wanted, strict=True):
                if d is not None:  # as in plain backpropagation, a parameter that is not used has no gradient
                    d_parameters[id(p)] = d_parameters[id(p)] + d if id(p) in d_parameters else d
        return None, None, _joined(d_streams), *(d_parameters.get(id(p)) for p in ctx.parameters)


def _joined(streams: Streams) -> Tensor:
    return streams[0] if len(streams) == 1 else torch.cat(streams, 1)


def _split(streams: Streams, halves: tuple[int, int] | None) -> Streams:
    """The streams that a step takes, views where they were whole.

    Raises:
        ValueError: there are not as many channels.
    """
    if halves == (tuple(part.shape[1] for part in streams) if len(streams) > 1 else None):
        return streams
    whole = _joined(streams)
    if halves is None:
        return (whole,)
    if whole.shape[1] != sum(halves):
        raise ValueError(
            f'got features of {whole.shape[1]} channels for a coupling of {sum(halves)}: build it for as many'
        )
    return whole.split(halves, 1)


def _owned(streams: Streams, halves: tuple[int, int] | None) -> Streams:
    """As :func:`_split`, of values that may change in place where they are two streams."""
    parts = _split(streams, halves)
    return parts if halves is None or parts is streams else tuple(part.clone() for part in parts)


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
    if not values:
        return
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
def _replayed(
    autocast: Callable[[], AbstractContextManager], states: list[Tensor] | None, device: torch.device
) -> Iterator[None]:
    """Inside, autocast is that of the forward pass, and random numbers are, if it drew some."""
    with autocast(), nullcontext() if states is None else _drawn_again(states, device):
        yield


@contextmanager
def _drawn_again(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Inside, the generators begin where they began then; afterwards they are where they were."""
    saved = _generators(device)
    _set_generators(states, device)
    try:
        yield
    finally:
        _set_generators(saved, device)


def _autocast_of_now(device: torch.device) -> Callable[[], AbstractContextManager]:
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    # nothing is kept from one evaluation to the next: what was cast without gradients has none
    return partial(torch.autocast, device.type, dtype, enabled, cache_enabled=False)


def _set_generators(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != 'cpu':
        torch.get_device_module(device).set_rng_state(states[1], device)
