"""A certified residual layer between couplings on a grid: its error bound is what makes its inverse exact.

``y = x + g(x)`` does not map the grid of :mod:`.grid` to itself, and the couplings before it come back bit by bit only
if x does. So y is given out in two parts, what lies on the grid and the small remainder:

    y = x + g(x),    trunk = round(y),    remainder = y - trunk          (exact: |remainder| is at most half a step)

The inverse solves for x from ``trunk + remainder`` with an error bound e. Where e is below half a step, x is the one
point of the grid that is nearest to the solution: rounding gives x exactly. The layer is evaluated in float64, whose
rounding is far below the step of float32; both parts have the dtype of x, and in float32 they hold y to 4e-12.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops import Move, Roulette, Step, at_least_float32, max_token_norm, storage_error, unit_roundoff
from ..checks import check_features
from ..constant_weights import weights_of
from ..contract import InverseInfo, InvertibleModule, check_converged, inverse_step, outputs
from .grid import grid_step, to_grid


class GridResidual(InvertibleModule):
    """``x -> (trunk, remainder)`` with ``trunk + remainder = layer(x)``, to be used after :class:`ToGrid`.

    In a sequence the next layer reads the trunk, and the remainder is a further output of the sequence. Gradients and
    the log-determinant are those of the layer: they ignore the rounding, so the gradient of the remainder is 0.

    ``info.error_bound`` of the inverse is 0 where the bound of the layer is below half a step of the grid, provided
    that x was on the grid. Otherwise it is the bound of the layer, and x is not rounded: so it is for features in
    float64, whose grid is as fine as their rounding. ``info.residual`` is that of the solution before rounding.

    Args:
        layer: an invertible layer with an error bound, such as ``CertifiedAttention2d`` or ``ConditionalAttention2d``.

    Raises:
        ValueError: the layer is not invertible, or has further outputs itself.
    """

    extra_outputs = 1

    def __init__(self, layer: InvertibleModule):
        super().__init__()
        if not isinstance(layer, InvertibleModule) or layer.extra_outputs:
            raise ValueError(
                f'GridResidual got a {type(layer).__name__}; it takes an invertible layer with a single output'
            )
        self.layer, self.begins_at_mean = layer, layer.begins_at_mean

    def weights(self) -> Any:
        return (weights_of(self.layer),)

    def start(self, x: Tensor) -> None:
        self.layer.start(x.double())

    def forward(self, x: Tensor, weights: Any = None) -> tuple[Tensor, Tensor]:
        return self._in_two(self.layer(x.double(), None if weights is None else weights[0]), at_least_float32(x).dtype)

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        return [inverse_step(self, self.forward, tol, max_iter)]

    @torch.no_grad()
    def inverse(
        self,
        y: Tensor | tuple[Tensor, ...],
        tol: float = 1e-6,
        max_iter: int = 100,
        strict: bool = True,
        weights: Any = None,
        certify: bool = True,
        error: Tensor | None = None,
    ) -> tuple[Tensor, InverseInfo]:
        whole, dtype, own = self._whole(y), outputs(y)[0].dtype, None if weights is None else weights[0]
        step = grid_step(dtype)
        # the remainder was rounded when it was stored, and x has to be known to a fraction of a step
        stored = unit_roundoff(dtype) * max_token_norm(outputs(y)[1]).double() if dtype != torch.float64 else None
        error = stored if error is None else error if stored is None else error + stored
        tol = min(tol, step / 8 / max(float(max_token_norm(whole).max()), step))
        x, info = self.layer.inverse(whole, tol, max_iter, False, own, certify, error)
        rounded = _on_grid(x, dtype)
        if certify:
            exact = self.layer.pixel_error(x, info.error_bound) < step / 2
            x = torch.where(exact[:, None, None, None], rounded, x)
            bound = info.error_bound + self.layer.error_norm(storage_error(x, dtype))
            info = info._replace(error_bound=torch.where(exact, 0, bound), converged=info.converged | exact)
        else:
            x = rounded
        x = x.to(dtype)
        if strict:
            check_converged(x, info, self.lipschitz_bound(), tol, max_iter)
        return x, info

    def recover_input(
        self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int, weights: Any = None, mean: Tensor | None = None
    ) -> Tensor:
        own, dtype = None if weights is None else weights[0], outputs(y)[0].dtype
        mean = None if mean is None else mean.double()
        x = self.layer.recover_input(self._whole(y), tol / 4, max_iter, own, mean)
        return _on_grid(x, dtype).to(dtype)

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self.layer.lipschitz_bound(n)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Those of the layer, apart from the rounding; errors of trunk and remainder add up."""
        forward, backward = self.layer.bi_lipschitz_bound()
        return forward, 2 * backward

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        return self.layer.inverse_error(x.double(), 2 * error, within, None if weights is None else weights[0])

    def error_norm(self, x: Tensor) -> Tensor:
        return self.layer.error_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        return self.layer.pixel_error(x, error)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        own = None if weights is None else weights[0]
        y, log_det = self.layer.forward_and_log_abs_det(x.double(), n_terms, n_samples, own)
        dtype = at_least_float32(x).dtype
        return self._in_two(y, dtype), log_det.to(dtype)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        return self.layer.log_abs_det_error_bound(x.double(), n_terms)

    def _in_two(self, y: Tensor | tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        (whole,) = outputs(y)
        trunk = to_grid(whole.to(dtype))
        return trunk, (whole - trunk).to(dtype)

    def _whole(self, y: Tensor | tuple[Tensor, ...]) -> Tensor:
        trunk, remainder = outputs(y)
        check_features(trunk, None, finite=True)
        if remainder.shape != trunk.shape:
            raise ValueError(
                f'got a trunk of shape {tuple(trunk.shape)} and a remainder of shape {tuple(remainder.shape)}; the '
                'inverse of GridResidual takes both as forward returned them, of the same shape'
            )
        return trunk.double() + remainder


def _on_grid(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The point of the grid of that dtype that is nearest to x, which is float64."""
    return (x / grid_step(dtype)).round() * grid_step(dtype)
