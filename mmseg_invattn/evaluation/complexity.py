"""Parameters and floating point operations of a model, for its forward pass and its inverses.

Operations are those that torch's ``FlopCounterMode`` counts: matrix products, convolutions and attention, with a
multiply-add as two operations. Additions, activations and normalisations do not count. Attention kernels that torch
does not count are added here: the fused kernel of the CPU, and those of this package.

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size, R rows (batch and heads).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..layers import InverseInfo, constant_weights
from ..models.invertible_parts import invertible_parts
from ..models.recorded_inputs import recorded_inputs

Shape = tuple[int, ...]


def _attention_flops(q_BGND: Shape, k_BGMD: Shape, v_BGME: Shape, *args: object, **kwargs: object) -> int:
    """Scores and weighted sum, ``2 B G N M (D + E)``."""
    batch, groups, n, d = q_BGND
    return 2 * batch * groups * n * k_BGMD[2] * (d + v_BGME[3])


def _sorted_concatenation_flops(
    alpha_RN1: Shape, gamma_RM1: Shape, v_RME: Shape, kind: str, *args: object, **kwargs: object
) -> int:
    """Arithmetic of the prefix sums of the F = E + 1 features (values and normaliser; E for ReLU).

    A key needs 3 operations per feature (suffix sum, step, ramp), and 3 more if there is an exponential piece (weigh,
    add up, weigh back). A query needs 2 per feature, 3 more with an exponential piece, and E divisions. Sorting only
    compares numbers, and is not counted.
    """
    rows, n, _ = alpha_RN1
    m, size = v_RME[1:]
    if kind == 'relu':
        return rows * (3 * m * size + 2 * n * size + n * size)
    return rows * (6 * m * (size + 1) + 5 * n * (size + 1) + n * size)


def _formulas() -> dict:
    """The kernels that torch's counter does not count."""
    ours = torch.ops.mmseg_invattn
    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        ours.blocked_positive: _attention_flops,
        ours.sorted_concatenation: _sorted_concatenation_flops,
    }


def count_flops(function: Callable[[], object]) -> int:
    """Floating point operations of a call. Inside :func:`~mmseg_invattn.layers.constant_weights` they do not include
    those by which layers derive numbers from their weights."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        function()
    return counter.get_total_flops()


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class InverseCost:
    """The cost of inverting an invertible part of a model at one input.

    Attributes:
        name: name of the module.
        shape: shape of its input, without the batch.
        forward: operations of a forward pass.
        inverse: operations of the inverse with all iterations, their acceleration and the certificate.
        iterations: evaluations of the branch; for a sequence, the largest of its layers; 0 for a closed form.
        error_bound: certified bound of the error; NaN if there is none.
        converged: whether the inverse met its tolerance.
    """

    name: str
    shape: Shape
    forward: int
    inverse: int
    iterations: int
    error_bound: float
    converged: bool


@torch.no_grad()
def inverse_costs(model: nn.Module, image: Tensor, tol: float = 1e-6, max_iter: int = 1000) -> list[InverseCost]:
    """Cost of inverting each invertible part of a model at the features of an image, without deriving its weights.

    Args:
        model: the model in evaluation mode.
        image: the preprocessed image, (1, C, H, W).
        tol: this and ``max_iter`` are those of :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
    """
    seen = {}  # the first call of each
    for name, module, x in recorded_inputs(invertible_parts(model), lambda: model(image, mode='tensor')):
        seen.setdefault(name, (module, x))
    with constant_weights(model):
        return [_cost(name, module, x, tol, max_iter) for name, (module, x) in seen.items()]


def _cost(name: str, module: nn.Module, x: Tensor, tol: float, max_iter: int) -> InverseCost:
    y, infos = module(x), []
    forward = count_flops(lambda: module(x))
    inverse = count_flops(lambda: infos.append(module.inverse(y, tol, max_iter, strict=False)[1]))
    info: InverseInfo = infos[-1]
    return InverseCost(
        name,
        tuple(x.shape[1:]),
        forward,
        inverse,
        int(info.iterations.max()),
        float(info.error_bound.max()),
        bool(info.converged.all()),
    )
