"""Latents and log-determinant of a sequence in one pass, with the activations stored or recovered.

A step of the sequence is ``x -> (f(x), log|det df/dx|)``. Both passes of a step draw the same probes, from a seed of
its own: with activations recovered the gradient is that of the very number that the forward pass returned.
"""
import torch
from torch import Tensor

from ...layers import InvertibleModule, InvertibleSequential
from ...layers.sequential import outputs
from ...ops import Roulette, Step, at_least_float32, memory_free


def encode(flow: InvertibleSequential, x: Tensor, n_terms: int | str | Roulette, n_samples: int,
           recover: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    """What ``flow(x)`` returns, as a tuple, and ``flow.log_abs_det(x)``, shape (B,).

    Args:
        flow: the layers.
        x: shape (B, C, H, W).
        n_terms: as in :meth:`~mmseg_invattn.layers.InvertibleModule.log_abs_det`, like ``n_samples``.
        recover: recover the activations in the backward pass instead of storing them.
    """
    seeds = torch.randint(2**62, (len(flow), )).tolist()
    steps = [_step(layer, n_terms, n_samples, seed) for layer, seed in zip(flow, seeds, strict=True)]
    x = at_least_float32(x)
    if recover and torch.is_grad_enabled():
        trunk, *extra = memory_free(steps, x)
    else:
        trunk, extra = x, []
        for step in steps:
            trunk, *rest = step.forward(trunk)
            extra += rest
    latents, total = [], 0
    for layer in flow:
        *own, log_det = extra[:layer.extra_outputs + 1]
        extra = extra[layer.extra_outputs + 1:]
        latents, total = latents + own, total + log_det
    return (trunk, *latents), total


def _step(layer: InvertibleModule, n_terms: int | str | Roulette, n_samples: int, seed: int) -> Step:

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        trunk, *own = outputs(layer(x))
        with torch.random.fork_rng([x.device] if x.device.type == 'cuda' else []):
            torch.manual_seed(seed)
            log_det = layer.log_abs_det(x, n_terms, n_samples)
        # a determinant that is constant has no graph, and the memory-free step differentiates all of its outputs
        return trunk, *own, log_det + 0 * trunk.flatten(1)[:, 0]

    def inverse(y: tuple[Tensor, ...]) -> Tensor:
        y = y[:-1]
        return layer.recover_input(y if layer.extra_outputs else y[0], torch.finfo(y[0].dtype).eps, 1000)

    return Step(forward, inverse, tuple(layer.parameters()), layer.extra_outputs + 1)
