"""Steps of a memory-free pass: each is an invertible map with a method that goes back through it.

Going back takes y and dL/dy and returns x, dL/dx and dL/dtheta. There are two ways; the cost is in addition to that of
backpropagation with stored activations.

    inverse      x = f^-1(y), then f(x) again with a graph:                 one inverse and one forward pass
    coupling     out = net(x1) once, with a graph (x1 = y1 is unchanged):   x2 = y2 - out,
                 dL/dx2 = dL/dy2,  dL/dx1 = dL/dy1 + J^T dL/dy2,            one forward pass

A coupling reads one of two streams and changes the other; the streams stay separate from one coupling to the next. The
values of the streams belong to the pass and are changed in place. Gradients are not, because autograd may use the same
memory for the gradient of a parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Streams = tuple[Tensor, ...]  # the whole feature map, or its two halves
Split = Callable[[Streams, tuple[int, int] | None], Streams]  # the two parts of the streams, or one whole map
Replay = Callable[[], AbstractContextManager]  # a context with the random numbers and autocast of the forward pass


class Output(NamedTuple):
    """What a step returns, or the gradient of it.

    Attributes:
        streams: the input of the next step.
        extra: outputs that leave the sequence at this step.
        kept: what the step needs again in the backward pass; small compared with the streams.
    """

    streams: Streams
    extra: Sequence[Tensor] = ()
    kept: Tensor | None = None


class Gradients(NamedTuple):
    """What going back returns: x, dL/dx, and the gradient of each wanted parameter, or None if it was not used."""

    x: Streams
    d_x: Streams
    d_wanted: Sequence[Tensor | None]


class Step(ABC):
    """One invertible map.

    Attributes:
        parameters: what the forward pass uses and the backward pass differentiates.
        buffers: other tensors on which the map depends.
        halves: channels of its two input streams, or None if its input is the whole map.
        extra_outputs: number of outputs besides the streams.
    """

    parameters: Callable[[], tuple[Tensor, ...]]
    buffers: Callable[[], tuple[Tensor, ...]]
    halves: tuple[int, int] | None = None
    extra_outputs: int = 0

    @abstractmethod
    def forward(self, x: Streams) -> Output:
        """Computes y from x, without gradients; two streams may be changed in place."""

    @abstractmethod
    def backward(self, y: Output, d_y: Output, wanted: Sequence[Tensor], replay: Replay) -> Gradients:
        """Computes x and the gradients from y.

        Called with gradients disabled; two streams of y may be changed in place.

        Args:
            y: the output of the forward pass.
            d_y: the gradient of the loss in that output.
            wanted: the parameters that need a gradient.
            replay: a context to enter around every evaluation of the map.
        """


class Move:
    """Moves a part of the channels aside, or back, between two steps; nothing is computed.

    ::

        put aside    (first, rest) -> (rest,)              the first part waits
        take back    (rest,)       -> (first, rest)        the part that was put aside last comes back

    Each is the way back of the other.

    Args:
        halves: channels of the part that is moved, and of the rest.
        takes: take back instead of putting aside.
    """

    def __init__(self, halves: tuple[int, int], takes: bool = False):
        self.halves, self.takes = halves, takes

    def parameters(self) -> tuple[Tensor, ...]:
        return ()

    def buffers(self) -> tuple[Tensor, ...]:
        return ()

    def forward(self, streams: Streams, aside: list[Tensor], split: Split) -> Streams:
        """The streams behind this step.

        Args:
            aside: the parts that wait; it is changed.
            split: returns the two parts of the streams.
        """
        return self._moved(streams, aside, split, self.takes)

    def backward(self, streams: Streams, aside: list[Tensor], split: Split) -> Streams:
        """The streams before this step, from those behind it; also for their gradients."""
        return self._moved(streams, aside, split, not self.takes)

    def _moved(self, streams: Streams, aside: list[Tensor], split: Split, takes: bool) -> Streams:
        if takes:
            return aside.pop(), joined(streams)
        first, rest = split(streams, self.halves)
        aside.append(first)
        return (rest,)


class InverseStep(Step):
    """A map that has an inverse function.

    Args:
        evaluate: (x, weights) -> (trunk, further outputs...). In the forward pass weights are None, and the function
            has to derive them itself.
        inverse: ((trunk, further outputs...), weights, mean of x over the pixels, or None) -> x.
        weights: derives the weights for both functions from the parameters, differentiably.
        keeps_mean: whether the inverse uses the mean of x.
    """

    def __init__(
        self,
        evaluate: Callable[[Tensor, Any], tuple[Tensor, ...]],
        inverse: Callable[[tuple[Tensor, ...], Any, Tensor | None], Tensor],
        weights: Callable[[], Any],
        parameters: Callable[[], tuple[Tensor, ...]],
        buffers: Callable[[], tuple[Tensor, ...]] = tuple,
        extra_outputs: int = 0,
        keeps_mean: bool = False,
    ):
        self.evaluate, self.inverse, self.weights = evaluate, inverse, weights
        self.parameters, self.buffers, self.extra_outputs = parameters, buffers, extra_outputs
        self.keeps_mean = keeps_mean

    def forward(self, x: Streams) -> Output:
        trunk, *extra = self.evaluate(x[0], None)
        return Output((trunk,), extra, x[0].mean((2, 3), keepdim=True) if self.keeps_mean else None)

    def backward(self, y: Output, d_y: Output, wanted: Sequence[Tensor], replay: Replay) -> Gradients:
        with torch.enable_grad():
            weights = self.weights()
        with replay():
            x = self.inverse((*y.streams, *y.extra), weights, y.kept).detach().requires_grad_()
        with torch.enable_grad(), replay():
            again = self.evaluate(x, weights)
        d_x, *d_wanted = torch.autograd.grad(again, [x, *wanted], [*d_y.streams, *d_y.extra], allow_unused=True)
        return Gradients((x.detach(),), (d_x,), d_wanted)


class CouplingStep(Step):
    """One stream stays unchanged; a sub-network reads it and determines how the other stream changes.

    Args:
        net: (unchanged stream, changed stream) -> out. It may use only shape and dtype of the changed stream.
        change: (x2, out) -> y2.
        change_back: (y2, out) -> x2.
        passes: index of the stream that stays unchanged, 0 or 1.
    """

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        change: Callable[[Tensor, Tensor], Tensor],
        change_back: Callable[[Tensor, Tensor], Tensor],
        passes: int,
        halves: tuple[int, int],
        parameters: Callable[[], tuple[Tensor, ...]],
        buffers: Callable[[], tuple[Tensor, ...]] = tuple,
    ):
        self.net, self.change, self.change_back, self.passes = net, change, change_back, passes
        self.halves, self.parameters, self.buffers = halves, parameters, buffers

    def forward(self, x: Streams) -> Output:
        passed, changed = self.in_order(x)
        return Output(self.in_order((passed, self.change(changed, self.net(passed, changed)))))

    def backward(self, y: Output, d_y: Output, wanted: Sequence[Tensor], replay: Replay) -> Gradients:
        (passed, changed), (d_passed, d_changed) = self.in_order(y.streams), self.in_order(d_y.streams)
        read = passed.detach().requires_grad_()
        with torch.enable_grad(), replay():
            out = self.net(read, changed)
        changed = self.change_back(changed, out.detach())
        d_changed, d_out = self.differentiate(changed, out.detach(), d_changed)
        d_read, *d_wanted = self._gradient(out, [read, *wanted], d_out)
        d_passed = d_passed if d_read is None else d_passed + d_read
        return Gradients(self.in_order((passed, changed)), self.in_order((d_passed, d_changed)), d_wanted)

    def differentiate(self, changed: Tensor, out: Tensor, d_changed: Tensor) -> tuple[Tensor, Tensor]:
        """(dL/dx2, dL/dout) from x2, out and dL/dy2."""
        at = [changed.detach().requires_grad_(), out.requires_grad_()]
        with torch.enable_grad():
            y2 = self.change(*at)
        d_x2, d_out = torch.autograd.grad(y2, at, d_changed)
        return d_x2, d_out

    def in_order(self, pair: Streams) -> Streams:
        """Reorders the streams to (unchanged, changed), or such a pair to the streams."""
        return pair if self.passes == 0 else pair[::-1]

    @staticmethod
    def _gradient(out: Tensor, inputs: Sequence[Tensor], d_out: Tensor) -> Sequence[Tensor | None]:
        if not out.requires_grad:  # a sub-network that reads nothing and learns nothing
            return [None] * len(inputs)
        return torch.autograd.grad(out, inputs, d_out, allow_unused=True)


class AdditiveStep(CouplingStep):
    """``y2 = x2 + out``, in place."""

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        passes: int,
        halves: tuple[int, int],
        parameters: Callable[[], tuple[Tensor, ...]],
        buffers: Callable[[], tuple[Tensor, ...]] = tuple,
    ):
        super().__init__(net, Tensor.add_, Tensor.sub_, passes, halves, parameters, buffers)

    def differentiate(self, changed: Tensor, out: Tensor, d_changed: Tensor) -> tuple[Tensor, Tensor]:
        return d_changed, d_changed


def joined(streams: Streams) -> Tensor:
    """The whole feature map."""
    return streams[0] if len(streams) == 1 else torch.cat(streams, 1)


def split(streams: Streams, halves: tuple[int, int] | None) -> Streams:
    """The streams that a step takes; views if the map has to be split.

    Raises:
        ValueError: the map has another number of channels than the step.
    """
    if halves == (tuple(part.shape[1] for part in streams) if len(streams) > 1 else None):
        return streams
    whole = joined(streams)
    if halves is None:
        return (whole,)
    if whole.shape[1] != sum(halves):
        raise ValueError(
            f'got features with {whole.shape[1]} channels, but the coupling was built for {sum(halves)}: build it for '
            f'the channels of the features'
        )
    return whole.split(halves, 1)


def owned(streams: Streams, halves: tuple[int, int] | None) -> Streams:
    """As :func:`split`, but two streams are copies that the step may change in place."""
    parts = split(streams, halves)
    return parts if halves is None or parts is streams else tuple(part.clone() for part in parts)
