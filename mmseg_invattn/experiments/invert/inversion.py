"""What the inverses of a model recover from an image: errors, bounds, and the error during the iteration."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers import InverseInfo, InvertibleModule, InvertibleSequential
from ...models.attention import forward_and_back
from ...models.backbones.invertible_backbone import InvertibleBackbone
from ...models.invertible_parts import invertible_parts
from ...models.recorded_inputs import recorded_inputs
from ...ops import max_token_norm

MAX_POINTS = 40  # largest number of points of a curve, before the last one


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy of the inverse when each of its layers may evaluate its branch ``evaluations`` times."""

    evaluations: int
    error: float
    residual: float
    error_bound: float | None


@dataclass(frozen=True)
class Inversion:
    """The result of running a part of the model forward and back.

    Attributes:
        name: name of the module.
        seen: input of the module, (1, C, H, W), on the CPU.
        recovered: the input as recovered by the inverse from the output.
        is_image: whether the input is the preprocessed image.
        error: ``|recovered - seen|`` in the norm of the layer: the largest token norm, or for attention over channels
            the largest RMS of a channel.
        relative_error: ``error`` divided by the norm of ``seen``.
        residual: residual that the inverse reports.
        error_bound: certified upper bound of the error; None if the form has none.
        rounding: bound of the rounding error of the forward pass, part of ``error_bound``; None if there is none. For a
            sequence the largest of a layer.
        lipschitz_bound: certified Lipschitz bound of the branches; None if there is none.
        local_bound: the same around these features, if it is part of ``error_bound``; otherwise None. A sequence has
            none, because each of its layers has its own.
        iterations: evaluations of branches, summed over the layers.
        converged: whether the inverse met its tolerance.
        precision: the precision in which the bound assumes the output to be computed.
        curve: a point for 1, 2, ... evaluations, until the inverse is done.
    """

    name: str
    seen: Tensor
    recovered: Tensor
    is_image: bool
    error: float
    relative_error: float
    residual: float
    error_bound: float | None
    rounding: float | None
    lipschitz_bound: float | None
    local_bound: float | None
    iterations: int
    converged: bool
    precision: str
    curve: tuple[CurvePoint, ...]

    def numbers(self) -> dict:
        """All fields but the tensors, for JSON."""
        fields = {name: value for name, value in vars(self).items() if name not in ('seen', 'recovered', 'curve')}
        return fields | dict(shape=list(self.seen.shape[1:]), curve=[vars(point) for point in self.curve])


@torch.no_grad()
def inversions(model: nn.Module, image: Tensor, tol: float = 1e-6, max_iter: int = 100) -> list[Inversion]:
    """Runs every invertible part of a model forward and back on its input for an image.

    Args:
        model: in evaluation mode.
        image: preprocessed, (1, C, H, W).
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.

    Raises:
        ValueError: the model has no invertible part.
    """
    seen = recorded_inputs(invertible_parts(model), lambda: model(image, mode='tensor'))
    if not seen:
        raise ValueError(
            f'{type(model).__name__} uses no part that has an inverse: give a config with an invertible backbone '
            '(InvResNet, RevNet2d, InvUNet) or with invertible layers, such as attention in a form '
            "other than 'none'"
        )
    return [_inverted(name, module, x, tol, max_iter) for name, module, x in seen]


def _inverted(name: str, module: nn.Module, x: Tensor, tol: float, max_iter: int) -> Inversion:
    layer: InvertibleModule = module.flow if isinstance(module, InvertibleBackbone) else module
    back = _inverse_of(module, x, tol)

    def norm(x: Tensor) -> float:
        return float((max_token_norm if layer is not module else layer.error_norm)(x).max())

    recovered, info = back(max_iter)
    error, curve = norm(recovered - x), []
    for count in [*range(1, min(max_iter, MAX_POINTS) + 1), max_iter]:
        partly, reached = back(count)
        curve.append(CurvePoint(count, norm(partly - x), float(reached.residual.max()), _bound(reached.error_bound)))
        if torch.equal(partly, recovered):
            break
    return Inversion(
        name,
        x.cpu(),
        recovered.cpu(),
        layer is not module,
        error,
        error / norm(x),
        float(info.residual.max()),
        _bound(info.error_bound),
        _bound(info.rounding),
        layer.lipschitz_bound() or None,
        None if isinstance(layer, InvertibleSequential) else _bound(info.lipschitz) or None,
        int(info.iterations.max()),
        bool(info.converged.all()),
        info.precision,
        tuple(curve),
    )


def _inverse_of(module: nn.Module, x: Tensor, tol: float) -> Callable[[int], tuple[Tensor, InverseInfo]]:
    """The inverse of the module's output as a function of the largest number of evaluations."""
    if isinstance(module, InvertibleBackbone):
        features = module(x)
        return lambda max_iter: module.inverse(features, tol, max_iter, strict=False)

    def back(max_iter: int) -> tuple[Tensor, InverseInfo]:
        inverse = forward_and_back(module, x, tol, max_iter, strict=False)
        return inverse.recovered, inverse.info

    return back


def _bound(values: Tensor) -> float | None:
    """The largest value; None if it is NaN."""
    bound = float(values.max())
    return None if math.isnan(bound) else bound
