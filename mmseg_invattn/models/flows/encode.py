"""Latents and log-determinant of a sequence in one pass, with the activations stored or recovered.

A step of the sequence is ``x -> (f(x), log|det df/dx|)``. If activations are recovered, the backward pass draws the
same probes as the forward pass, so the gradient belongs to exactly the number that was returned.
"""

import torch
from torch import Tensor

from ...layers import InvertibleModule, InvertibleSequential
from ...layers.contract import inverse_step, outputs
from ...ops import Roulette, Step, at_least_float32, memory_free


def encode(
    flow: InvertibleSequential, x: Tensor, n_terms: int | str | Roulette, n_samples: int, recover: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """``flow(x)`` as a tuple, and ``flow.log_abs_det(x)``, shape (B,).

    Args:
        flow: the layers.
        x: shape (B, C, H, W).
        n_terms: as in :meth:`~mmseg_invattn.layers.InvertibleModule.log_abs_det`.
        n_samples: as in :meth:`~mmseg_invattn.layers.InvertibleModule.log_abs_det`.
        recover: recover the activations in the backward pass instead of storing them.
    """
    x = at_least_float32(x)
    if not recover or not torch.is_grad_enabled():
        y, log_det = flow.forward_and_log_abs_det(x, n_terms, n_samples)
        return outputs(y), log_det
    trunk, *extra = memory_free([_step(layer, n_terms, n_samples) for layer in flow], x)
    latents, total = [], 0
    for layer in flow:
        *own, log_det = extra[: layer.extra_outputs + 1]
        extra = extra[layer.extra_outputs + 1 :]
        latents, total = latents + own, total + log_det
    return (trunk, *latents), total


def _step(layer: InvertibleModule, n_terms: int | str | Roulette, n_samples: int) -> Step:

    def forward(x: Tensor, weights) -> tuple[Tensor, ...]:
        y, log_det = layer.forward_and_log_abs_det(x, n_terms, n_samples, weights)
        trunk, *own = outputs(y)
        # The memory-free step differentiates all outputs, but a constant determinant has no graph: give it one.
        return trunk, *own, log_det + 0 * trunk.flatten(1)[:, 0]

    return inverse_step(layer, forward, more_outputs=1)
