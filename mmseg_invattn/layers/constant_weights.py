"""Derived weights that a caller knows to stand still: ``with constant_weights(model):``.

A layer derives its normalised matrices at every call. A test loop, an inference server or an exporter runs a model
whose parameters nobody changes: it says so, and the layers derive them once for the whole block, as
``torch.nn.utils.parametrize.cached()`` does it for parametrisations.
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
    """What is constant of a layer."""

    weights: Any
    parameters: list[tuple[dict, str, Tensor]]  # that they were derived from, and where these stand
    bounds: dict[int | None, float | None] = field(default_factory=dict)  # lipschitz_bound by the number of pixels
    dtype: torch.dtype = torch.float32  # the widest of the parameters, at least that
    cast: tuple[torch.dtype, Any] | None = None  # the weights in the last dtype that was computed in
    scaled: tuple[int, Any] | None = None  # what follows from these and the last number of pixels


_HELD: dict[nn.Module, Held] = {}  # the layers inside of a context, and nothing outside of one


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """Inside, the invertible layers of ``model`` derive their weights once instead of at every call.

    With gradients enabled weights that learn are derived at every call all the same: the gradient has to reach the
    parameters.

    Args:
        model: the layers of this module and of all its children.

    Raises:
        RuntimeError: at the end, where a parameter or buffer was changed inside: what ran after that used old weights.
    """
    state = [*model.parameters(), *model.buffers()]
    before = fingerprint(state)
    # children first: the weights of a composition are those of its layers
    layers = [layer for layer in reversed(list(model.modules())) if isinstance(layer, InvertibleModule)]
    with holding((layer, weights_of(layer)) for layer in layers):
        yield
    now = [*model.parameters(), *model.buffers()]
    known = len(state) == len(now) and all(a is b for a, b in zip(state, now, strict=True))
    if not known or not same(before, fingerprint(now)):
        raise RuntimeError(
            'a parameter or buffer was changed inside constant_weights(): what ran after that used the '
            'old weights. Leave the context before an optimiser steps, a checkpoint is loaded or a '
            'training batch starts a normalisation'
        )


@contextmanager
def holding(pairs: Iterable[tuple[InvertibleModule, Any]]) -> Iterator[None]:
    """Inside, these layers take these weights where they are given none: for one solve, whose weights are one."""
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
    """What a surrounding :func:`constant_weights` holds of the layer; None where it is to be derived."""
    held = _HELD.get(layer)
    if held is None:
        return None
    learns = torch.is_grad_enabled() and any(p.requires_grad for _, _, p in held.parameters)
    # functional_call puts others in their place for a moment; so does an exporter, with stand-ins for these very ones
    replaced = not torch.compiler.is_compiling() and any(place.get(name) is not p for place, name, p in held.parameters)
    return None if learns or replaced else held


def _standing(layer: InvertibleModule) -> list[tuple[dict, str, Tensor]]:
    """The parameters of a layer and its children, each with the dictionary and the name that it stands under."""
    return [
        (part._parameters, name, p) for part in layer.modules() for name, p in part._parameters.items() if p is not None
    ]


def weights_of(layer: InvertibleModule, given: Any = None) -> Any:
    """The weights of the layer: those given, or where there are none those of now, derived unless they are constant."""
    if given is not None:
        return given
    held = held_weights(layer)
    return layer.weights() if held is None else held.weights


def cast_weights(layer: InvertibleModule, weights: Any, dtype: torch.dtype) -> Any:
    """The weights in that dtype, once for all calls where they are constant ones."""
    held = held_weights(layer)
    if held is None or held.weights is not weights or torch.compiler.is_compiling():
        return cast_all(weights, dtype)
    if held.cast is None or held.cast[0] != dtype:
        with _for_later():
            held.cast, held.scaled = (dtype, cast_all(weights, dtype)), None
    return held.cast[1]


def scaled_weights(layer: InvertibleModule, weights: Any, n_pixels: int, scale: Callable[[Any, int], Any]) -> Any:
    """``scale(weights, n_pixels)``, once for all calls with so many pixels where :func:`cast_weights` gave the weights
    and they are constant ones."""
    held = held_weights(layer)
    if held is None or held.cast is None or held.cast[1] is not weights or torch.compiler.is_compiling():
        return scale(weights, n_pixels)
    if held.scaled is None or held.scaled[0] != n_pixels:
        with _for_later():
            held.scaled = n_pixels, scale(weights, n_pixels)
    return held.scaled[1]


@contextmanager
def _for_later() -> Iterator[None]:
    """What is made inside is not of inference mode, though this call may be: a later one may differentiate."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def started_weights(layer: InvertibleModule, x: Tensor, given: Any = None) -> Any:
    """As :func:`weights_of`, for a forward pass of x: where none are given, what starts from the data comes first."""
    if given is None:
        layer.start(x)
    return weights_of(layer, given)
