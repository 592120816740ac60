"""Derives weights only once while no parameter changes: ``with constant_weights(model):``.

By default a layer derives its normalised matrices at every call. A test loop, an inference server or an exporter runs a
model whose parameters do not change. Inside this context the layers derive these matrices only once, like
``torch.nn.utils.parametrize.cached()`` for parametrisations.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import cast_all, fingerprint, same
from .contract import InvertibleModule
from .parameters import compute_dtype


@dataclass
class Held:
    """The values of a layer that stay constant inside the context."""

    weights: Any
    parameters: list[tuple[dict, str, Tensor]]  # the parameters, with the dictionary and the name of each
    bounds: dict[int | None, float | None] = field(default_factory=dict)  # lipschitz_bound by the number of pixels
    dtype: torch.dtype = torch.float32  # the widest dtype of the parameters, at least float32
    cast: tuple[torch.dtype, Any] | None = None  # dtype of the last call, and the weights in that dtype
    scaled: tuple[int, Any] | None = None  # number of pixels of the last call, and what was scaled for it


_HELD: dict[nn.Module, Held] = {}  # the layers for which a context is active; empty outside a context


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """Context in which the invertible layers of ``model`` derive their weights once instead of at every call.

    Layers with trainable parameters still derive them at every call while gradients are enabled, because the gradient
    has to reach the parameters.

    Args:
        model: the context applies to this module and all modules in it.

    Raises:
        RuntimeError: at the end, if a parameter or buffer was changed inside: calls after the change used old weights.
    """
    state = [*model.parameters(), *model.buffers()]
    before = fingerprint(state)
    # children first, because a composition collects the weights of its layers
    layers = [layer for layer in reversed(list(model.modules())) if isinstance(layer, InvertibleModule)]
    with holding((layer, weights_of(layer)) for layer in layers):
        yield
    now = [*model.parameters(), *model.buffers()]
    known = len(state) == len(now) and all(a is b for a, b in zip(state, now, strict=True))
    if not known or not same(before, fingerprint(now)):
        raise RuntimeError(
            'a parameter or buffer was changed inside constant_weights(), so later calls used the old weights. '
            'Leave the context before an optimiser step, before loading a checkpoint and before the first '
            'training batch, which initialises normalisations'
        )


@contextmanager
def holding(pairs: Iterable[tuple[InvertibleModule, Any]]) -> Iterator[None]:
    """Context in which these layers use these weights if a call gives none; it keeps them the same during a solve."""
    new = []
    try:
        with torch.no_grad():
            for layer, weights in pairs:
                if layer not in _HELD:
                    dtype = compute_dtype(layer, torch.empty(0))
                    _HELD[layer] = Held(weights, _standing(layer), dtype=dtype)
                    new.append(layer)
        yield
    finally:
        for layer in new:
            del _HELD[layer]


def held_weights(layer: InvertibleModule) -> Held | None:
    """What a surrounding :func:`constant_weights` holds for the layer, or None if weights have to be derived."""
    held = _HELD.get(layer)
    if held is None:
        return None
    learns = torch.is_grad_enabled() and any(p.requires_grad for _, _, p in held.parameters)
    # functional_call temporarily replaces the parameters: derive the weights from the new ones. An exporter replaces
    # them too, but by stand-ins for the same parameters.
    replaced = not torch.compiler.is_compiling() and any(place.get(name) is not p for place, name, p in held.parameters)
    return None if learns or replaced else held


def _standing(layer: InvertibleModule) -> list[tuple[dict, str, Tensor]]:
    """The parameters of a layer and its children, each with the dictionary that holds it and its name there."""
    return [
        (part._parameters, name, p) for part in layer.modules() for name, p in part._parameters.items() if p is not None
    ]


def weights_of(layer: InvertibleModule, given: Any = None) -> Any:
    """The given weights; if None, the held constant weights; if there are none, weights derived now."""
    if given is not None:
        return given
    held = held_weights(layer)
    return layer.weights() if held is None else held.weights


def cast_weights(layer: InvertibleModule, weights: Any, dtype: torch.dtype) -> Any:
    """The weights in that dtype; constant weights are cast only once."""
    held = held_weights(layer)
    if held is None or held.weights is not weights or torch.compiler.is_compiling():
        return cast_all(weights, dtype)
    if held.cast is None or held.cast[0] != dtype:
        with _for_later():
            held.cast, held.scaled = (dtype, cast_all(weights, dtype)), None
    return held.cast[1]


def scaled_weights(layer: InvertibleModule, weights: Any, n_pixels: int, scale: Callable[[Any, int], Any]) -> Any:
    """``scale(weights, n_pixels)``.

    For constant weights that come from :func:`cast_weights`, it is computed once for successive calls with the same
    number of pixels.
    """
    held = held_weights(layer)
    if held is None or held.cast is None or held.cast[1] is not weights or torch.compiler.is_compiling():
        return scale(weights, n_pixels)
    if held.scaled is None or held.scaled[0] != n_pixels:
        with _for_later():
            held.scaled = n_pixels, scale(weights, n_pixels)
    return held.scaled[1]


@contextmanager
def _for_later() -> Iterator[None]:
    """Leaves inference mode: a later call may need gradients through tensors that are created inside."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def started_weights(layer: InvertibleModule, x: Tensor, given: Any = None) -> Any:
    """As :func:`weights_of`, for a forward pass of x.

    If no weights are given, :meth:`InvertibleModule.start` runs first, to initialise data-dependent parameters.
    """
    if given is None:
        layer.start(x)
    return weights_of(layer, given)
