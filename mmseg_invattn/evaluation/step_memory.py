"""Memory of a training step of any module: what the forward pass keeps, and the peak until the gradients are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..engine.config_checks.model import random_state_kept
from ..layers.data_dependent import DataDependentStart
from .live_memory import LiveMemory, LiveShapes, UndecidedError

REHEARSED = 64  # pixels: height and width of the images of a rehearsal, if the others are larger
Loss = Callable[[nn.Module, Tensor], Tensor]


class StepMemory(NamedTuple):
    """Bytes of a training step besides parameters, buffers and the state of the optimiser.

    Attributes:
        kept: alive between forward and backward pass: the activations that the graph stores, the images and the loss.
        peak: most bytes alive at one time in the two passes; gradients of parameters and temporary tensors included.
        gradients: of the parameters, alive at the end.
        part: what the forward pass of one module leaves alive, its outputs included; 0 if no module was named.
    """

    kept: int
    peak: int
    gradients: int
    part: int = 0


def mean_square(model: nn.Module, images: Tensor) -> Tensor:
    """A loss for any module: the mean of the squares of all of its outputs."""
    outputs = model(images)
    return torch.stack([y.square().mean() for y in ([outputs] if isinstance(outputs, Tensor) else outputs)]).sum()


def step_memory(
    model: nn.Module,
    shape: Sequence[int],
    loss: Loss = mean_square,
    part: nn.Module | None = None,
    computed: bool = False,
) -> StepMemory:
    """Memory of one training step, the same at every call, in tensors of the CPU.

    Nothing is computed from the images: only shapes are followed, so that a step of any size takes seconds and hardly
    any memory. A model that decides by values, such as one that recovers activations by an iterative inverse, is first
    run with values on images of at most 64 x 64 pixels (two of them, or all if their number is odd). It decides in the
    same way on the large images, so the inverse has as many iterations there. What cannot be decided so (a loss that
    chooses among pixels) is computed as a whole.

    Gradients are cleared. Running statistics and data-dependent parameters may move: take a model that is not used
    afterwards, or a copy.

    Args:
        model: a module on the CPU, in the mode in which it is trained.
        shape: of the images, (B, C, H, W), float32.
        loss: maps the model and images of any number and size to a number. It makes its labels itself.
        part: the module within the model whose share is wanted.
        computed: compute everything, which takes the time and memory of the step itself.

    Raises:
        ValueError: the model has parameters on another device.
        MemoryError: the step has to be computed as a whole, and needs more memory than is available.
    """
    if any(p.device.type != 'cpu' for p in model.parameters()):
        raise ValueError('step_memory counts in tensors of the CPU, and the model has parameters on another device')
    with random_state_kept():
        if not computed:
            small = _rehearsed_shape(shape)
            if any(isinstance(module, DataDependentStart) and module.waits() for module in model.modules()):
                with torch.no_grad():
                    loss(model, _images(small))
            rehearsal = LiveMemory(_known(model))
            for rehearses in (False, True):
                if rehearses:
                    _counted(model, small, loss, part, rehearsal)
                with suppress(UndecidedError):
                    return _counted(model, shape, loss, part, LiveShapes(_known(model), rehearsal.decisions))
        limit = available_memory()
        try:
            return _counted(model, shape, loss, part, LiveMemory(_known(model), limit))
        except MemoryError as error:
            raise MemoryError(
                f'a step with images of shape {tuple(shape)} decides by the values of many pixels, so it has to be '
                f'computed as a whole, and takes more than the {(limit or 0) / 2**30:.1f} GiB that are available: '
                'choose smaller images or batches'
            ) from error


def _known(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def available_memory() -> int | None:
    """Bytes of memory available to a process, swap left out; None where there is no /proc/meminfo."""
    file = Path('/proc/meminfo')
    if not file.exists():
        return None
    meminfo = dict(line.split(':') for line in file.read_text().splitlines())
    return int(meminfo['MemAvailable'].split()[0]) * 1024


def _rehearsed_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A batch of which the other one is a multiple."""
    batch, channels, *size = shape
    return 2 if batch % 2 == 0 else batch, channels, *(min(side, REHEARSED) for side in size)


def _images(shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _counted(
    model: nn.Module, shape: Sequence[int], loss: Loss, part: nn.Module | None, live: LiveMemory
) -> StepMemory:
    model.zero_grad(set_to_none=True)
    with live.fake if isinstance(live, LiveShapes) else nullcontext():
        images = _images(shape)
    before, after = [0], [0]
    hooks = (
        [
            part.register_forward_pre_hook(lambda *_: before.append(live.live)),
            part.register_forward_hook(lambda *_: after.append(live.live)),
        ]
        if part is not None
        else []
    )
    try:
        with torch.enable_grad(), live:
            live.count(images)
            result = loss(model, images)
            kept = live.live
            result.backward()
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
        return StepMemory(kept, live.peak, gradients, after[-1] - before[-1])
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
