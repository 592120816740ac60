"""Layers one after the other, inverted from the last to the first, with the composed error bound."""
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import max_token_norm
from .base import InverseInfo, InvertibleModule, check_converged, composed_error


def invert_chain(layers: Sequence[InvertibleModule], y: Tensor, tol: float, max_iter: int,
                 strict: bool) -> tuple[Tensor, InverseInfo]:
    """Inverse of ``layers[-1] o ... o layers[0]``.

    The error bound follows :func:`~mmseg_invattn.layers.base.composed_error` from layer to layer. What a layer leaves
    open grows in those that are inverted after it, by ``1 / (1 - L)`` in each: its tolerance is smaller by that.

    Returns:
        x and its info, residual and error bound in the norm of the first layer; iterations are summed over the layers,
        and a sample converged where all layers did.
    """
    error = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    iterations, converged = 0, True
    stored = torch.finfo(y.dtype).eps
    x = y
    for place in reversed(range(len(layers))):
        share = tol / len(layers)
        for earlier in layers[:place]:
            bound = earlier.lipschitz_bound()
            share = share if bound is None else share * (1 - bound)
        if place < len(layers) - 1:  # between layers the features were rounded to the precision of y
            error = error + 4 * stored * max_token_norm(x)
        x, info = layers[place].inverse(x, share, max_iter, strict=False)
        error = composed_error(layers[place], x, info, error)
        iterations, converged = iterations + info.iterations, info.converged & converged
    again = x
    for layer in layers:
        again = layer(again)
    residual = layers[0].error_norm((y - again).to(x.dtype))
    info = InverseInfo(iterations, residual, error, converged)
    if strict:
        check_converged(x, info, largest_bound(layers), tol, max_iter)
    return x, info


def largest_bound(layers: Sequence[InvertibleModule], n: int | None = None) -> float | None:
    """The largest certified bound of the layers' branches: all of them invert at that rate; None where one has none."""
    bounds = [layer.lipschitz_bound(n) for layer in layers]
    return None if None in bounds else max(bounds)
