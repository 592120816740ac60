"""What the inverses of a model recover from an image: errors, their bounds, and how the solver got there."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers import InverseInfo, InvertibleModule
from ...models.attention import forward_and_back
from ...models.backbones.invertible_backbone import InvertibleBackbone
from ...models.invertible_parts import invertible_parts
from ...models.recorded_inputs import recorded_inputs
from ...ops import max_token_norm

MAX_POINTS = 40  # of a curve, before its last


@dataclass(frozen=True)
class CurvePoint:
    """How far the inverse is when each of its layers may evaluate its branch so many times."""

    evaluations: int
    error: float
    residual: float
    error_bound: float | None


@dataclass(frozen=True)
class Inversion:
    """A part of the model run forward and back.

    Attributes:
        name: of the module.
        seen: its input, (1, C, H, W), on the CPU.
        recovered: what its inverse made of its output.
        is_image: the input is the preprocessed image.
        error: ``|recovered - seen|`` in the norm of the layer: the largest token norm, for attention over channels the
            largest RMS of a channel.
        relative_error: that by the norm of ``seen``.
        residual: that the solver reports.
        error_bound: certified upper bound of the error; None where the form has none.
        rounding: bound of what rounding changed in the forward pass, part of the bound; None likewise. Of a sequence
            the largest of a layer.
        lipschitz_bound: certified bound of the branches; None where there is none.
        local_bound: the same around these features, where it is part of the bound; None likewise.
        iterations: evaluations of branches, summed over the layers.
        converged: whether the solver met its tolerance.
        precision: what the bound takes the output to have been computed in.
        curve: a point for 1, 2, ... evaluations, up to where the solver is done.
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
        """For JSON."""
        fields = {name: value for name, value in vars(self).items() if name not in ('seen', 'recovered', 'curve')}
        return fields | dict(shape=list(self.seen.shape[1:]), curve=[vars(point) for point in self.curve])


@torch.no_grad()
def inversions(model: nn.Module, image: Tensor, tol: float = 1e-6, max_iter: int = 100) -> list[Inversion]:
    """Runs every invertible part forward and back on what it sees of an image.

    Args:
        model: in evaluation mode.
        image: preprocessed, (1, C, H, W).
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as is ``max_iter``.

    Raises:
        ValueError: the model runs nothing that has an inverse.
    """
    seen = recorded_inputs(invertible_parts(model), lambda: model(image, mode='tensor'))
    if not seen:
        raise ValueError(
            f'{type(model).__name__} runs nothing that has an inverse; looked for an invertible backbone '
            '(InvResNet, RevNet2d) and for invertible layers, such as attention in a form '
            "other than 'none': give a config with one of them"
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
        _bound(info.lipschitz) or None,
        int(info.iterations.max()),
        bool(info.converged.all()),
        info.precision,
        tuple(curve),
    )


def _inverse_of(module: nn.Module, x: Tensor, tol: float) -> Callable[[int], tuple[Tensor, InverseInfo]]:
    """The inverse of the module's output as a function of the evaluations that it may take."""
    if isinstance(module, InvertibleBackbone):
        features = module(x)
        return lambda max_iter: module.inverse(features, tol, max_iter, strict=False)

    def back(max_iter: int) -> tuple[Tensor, InverseInfo]:
        inverse = forward_and_back(module, x, tol, max_iter, strict=False)
        return inverse.recovered, inverse.info

    return back


def _bound(values: Tensor) -> float | None:
    """The largest; None where it is not known."""
    bound = float(values.max())
    return None if math.isnan(bound) else bound
