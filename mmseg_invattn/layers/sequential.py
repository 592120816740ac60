"""Composition of invertible layers, and the rule by which errors compose.

The inverse runs from the last layer to the first. Layer k gets a y with an error of at most ``e_k`` and adds an error
of its own, at most ``b_k`` (for a residual layer ``(|r| + rounding) / (1 - L)``), so the error of its x is at most

    e_(k-1) = Lip(f_k^-1) e_k + b_k,      which for a residual layer is (e_k + |r| + rounding) / (1 - L)

(:func:`~mmseg_invattn.layers.contract.composed_error`; if ``f_k^-1`` is not uniformly Lipschitz, its bound around x)

and the error bound of the sequence is e_0. The recursion starts from 0, since every layer counts the rounding of its
own y. If y was stored in half precision, it starts from the error of that cast.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops import Move, Roulette, Step, max_token_norm, storage_error
from ..wording import counted
from .certificate import NOTHING, USEFUL
from .checks import check_features
from .constant_weights import holding, weights_of
from .contract import InverseInfo, InvertibleModule, NotConvergedError, outputs
from .parameters import compute_dtype


class InvertibleSequential(InvertibleModule):
    """``y = f_n(... f_1(x))``.

    If there are splits among the layers, y is a tuple (trunk, latents in the order in which they were split off).
    Between the layers, features have the widest dtype of x and the parameters, float32 or higher; y has the dtype of x.

    Args:
        layers: one or more invertible layers.
    """

    def __init__(self, *layers: InvertibleModule):
        super().__init__()
        if not layers:
            raise ValueError('InvertibleSequential got no layers; give it at least one')
        for i, layer in enumerate(layers):
            if not isinstance(layer, InvertibleModule):
                raise ValueError(
                    f'layer {i} of InvertibleSequential is a {type(layer).__name__}, which is not '
                    'invertible: every layer must be an InvertibleModule'
                )
        # for the type checker: a ModuleList has no element type
        self.layers = cast(Sequence[InvertibleModule], nn.ModuleList(layers))
        self.extra_outputs = sum(layer.extra_outputs for layer in layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> InvertibleModule:
        return self.layers[index]

    def __iter__(self) -> Iterator[InvertibleModule]:
        return iter(self.layers)

    def weights(self) -> tuple:
        """The weights of the layers, in their order."""
        return tuple(weights_of(layer) for layer in self.layers)

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        """The steps of all layers: through successive couplings the two streams stay separate."""
        return [step for layer in self.layers for step in layer.steps(tol, max_iter)]

    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        check_features(x, None)
        trunk, extra = x.to(compute_dtype(self, x)), []
        for layer, own in zip(self.layers, self._each(weights), strict=True):
            trunk, *rest = outputs(layer(trunk, own))
            extra += rest
        return self._stored((trunk, *extra), x.dtype)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        """The log-determinant is the sum over the layers, each at its own input."""
        check_features(x, None)
        trunk, extra = x.to(compute_dtype(self, x)), []
        total = trunk.new_zeros(())
        for layer, own in zip(self.layers, self._each(weights), strict=True):
            y, log_det = layer.forward_and_log_abs_det(trunk, n_terms, n_samples, own)
            trunk, *rest = outputs(y)
            extra, total = extra + rest, total + log_det
        return self._stored((trunk, *extra), x.dtype), total

    def _each(self, weights: Any) -> Sequence[Any]:
        """The weights of each layer; None lets each layer derive its own when it is called."""
        return [None] * len(self.layers) if weights is None else weights

    def _stored(self, y: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor | tuple[Tensor, ...]:
        y = tuple(part.to(dtype) for part in y)
        return y if self.extra_outputs else y[0]

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
        """As in :class:`InvertibleModule`, with ``max_iter`` for each layer.

        Layer k gets the tolerance ``tol / (n Lip(f_1^-1) ... Lip(f_(k-1)^-1))``, relative to its own output, so that
        its error causes at most ``tol / n`` in x. ``info.iterations`` is the sum over the layers, and
        ``info.converged`` tells whether all of them met their tolerance or the precision of the dtype.
        ``info.error_bound`` is NaN if an error passes through a layer that has no bound for it. Residual and bound are
        in the norm of the first layer.
        """
        shapes = [tuple(part.shape) for part in outputs(y)]
        if len(shapes) != 1 + self.extra_outputs or len({shape[:1] for shape in shapes}) > 1:
            raise ValueError(
                f'the inverse of this InvertibleSequential got {counted(len(shapes), "tensor")}; it takes the '
                f'{1 + self.extra_outputs} that forward returned, of one batch size (shapes: {shapes})'
            )
        for part in outputs(y):
            check_features(part, None, finite=True)
        wide = [part.to(compute_dtype(self, part)) for part in outputs(y)]
        # bounds of the error from storing y in a lower precision than that of the layers
        kept, *stored = (
            max_token_norm(storage_error(part, computed.dtype)) for part, computed in zip(outputs(y), wide, strict=True)
        )
        error = kept if error is None else kept + error
        trunk, *extra = wide
        weights = weights_of(self, weights)
        with holding(zip(self.layers, weights, strict=True)):
            x, info, failed = self._solve(trunk, extra, error, stored, tol, max_iter, weights, certify)
            residual = torch.stack(
                [self.error_norm(a - b.to(a.dtype)) for a, b in zip(outputs(self(x, weights)), outputs(y), strict=True)]
            ).amax(0)
        bound = torch.where(info.error_bound.isfinite(), info.error_bound, torch.nan)
        bound = (bound * (1 + torch.finfo(residual.dtype).eps)).to(residual.dtype)
        size = torch.stack([max_token_norm(part) for part in (x, *outputs(y))]).amax(0).clamp(min=NOTHING)
        converged = info.converged & ~(bound > USEFUL * size)  # a NaN bound, from a layer without one, does not count
        info = info._replace(residual=residual, error_bound=bound, converged=converged)
        if strict and not converged.all():
            where = f'in layers {sorted(failed)}' if failed else 'after all of its layers together'
            raise NotConvergedError(
                f'the inverse of {int((~converged).sum())} of {counted(len(x), "sample")} did not reach tol={tol} '
                f'{where} within max_iter={max_iter} evaluation{"s" * (max_iter != 1)} each (largest residual of the '
                f'sequence {float(residual.max()):.3g}, largest error bound {float(bound.max()):.3g}): raise '
                'max_iter or tol, store y in a higher precision, or pass strict=False',
                x,
                info,
            )
        return x, info

    def _solve(
        self,
        trunk: Tensor,
        extra: list[Tensor],
        error: Tensor,
        stored: list[Tensor],
        tol: float,
        max_iter: int,
        weights: Any,
        certify: bool,
    ) -> tuple[Tensor, InverseInfo, list[int]]:
        """x, the combined report of the layers, and the indices of the layers that did not converge.

        Args:
            trunk: the first output.
            extra: the other outputs.
            error: bound of the error of the trunk.
            stored: bounds of the rounding of the other outputs when they were stored.
            weights: of the layers; the layers already hold them.
        """
        # factors by which the layers before layer k may enlarge its error
        spread = list(accumulate((_gain(layer) for layer in self.layers), mul, initial=1.0))
        failed, residual, known, precision = [], error, [], ''
        iterations = torch.zeros(len(trunk), dtype=torch.long, device=trunk.device)
        converged = torch.ones_like(iterations, dtype=torch.bool)
        for k in reversed(range(len(self.layers))):
            layer = self.layers[k]
            cut = len(extra) - layer.extra_outputs
            y_k = (trunk, *extra[cut:]) if layer.extra_outputs else trunk
            error = torch.stack([error, *stored[cut:]]).amax(0)
            extra, stored = extra[:cut], stored[:cut]
            own_tol = tol / (len(self.layers) * spread[k])
            trunk, info = layer.inverse(y_k, own_tol, max_iter, False, weights[k], certify, error)
            error = layer.pixel_error(trunk, info.error_bound) if k else info.error_bound
            # A sample that overflowed is lost: it continues as zeros, with an unknown error.
            lost = ~trunk.isfinite().flatten(1).all(1)
            trunk, error = trunk.masked_fill(lost[:, None, None, None], 0), error.masked_fill(lost, torch.nan)
            iterations, residual = iterations + info.iterations, info.residual
            converged &= info.converged
            known.append((info.rounding, info.lipschitz))
            precision = info.precision if precision != 'autocast' else precision
            failed += [] if info.converged.all() else [k]
        rounding, lipschitz = (torch.stack(each).amax(0) for each in zip(*known, strict=True))
        return trunk, InverseInfo(iterations, residual, error, converged, rounding, lipschitz, precision), failed

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        """The largest bound of a layer's branch; None if a layer has no certificate."""
        bounds = [layer.lipschitz_bound(n) for layer in self.layers]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if len(known) == len(bounds) else None

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """The products over the layers."""
        forward, backward = zip(*(layer.bi_lipschitz_bound() for layer in self.layers), strict=True)
        return math.prod(forward), math.prod(backward)

    @torch.no_grad()
    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        """Follows the error through the layers from the last to the first, each around its own input."""
        weights = weights_of(self, weights)
        pairs = list(zip(self.layers, weights, strict=True))
        with holding(pairs):
            inputs = list(accumulate(pairs[:-1], lambda x, pair: outputs(pair[0](x, pair[1]))[0], initial=x))
            reach = torch.as_tensor(within).expand_as(error)
            reaches = list(accumulate(self.layers[:-1], _carried, initial=reach))
            for k in reversed(range(len(self.layers))):
                error = self.layers[k].inverse_error(inputs[k], error, reaches[k], weights[k])
                error = self.layers[k].pixel_error(inputs[k], error) if k else error
        return error

    def error_norm(self, x: Tensor) -> Tensor:
        return self.layers[0].error_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        return self.layers[0].pixel_error(x, error)

    @torch.no_grad()
    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        """The sum over the layers, each at its own input."""
        x, total = x.to(compute_dtype(self, x)), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for layer in self.layers:
            bound = layer.log_abs_det_error_bound(x, n_terms)
            if bound is None:
                return None
            x, total = outputs(layer(x))[0], total + bound
        return total


def _gain(layer: InvertibleModule) -> float:
    """Factor for tolerances: ``Lip(f^-1)``, or ``1 / (1 - L)`` of the branch, or 1 if neither is known; at least 1."""
    gain = layer.bi_lipschitz_bound()[1]
    bound = layer.lipschitz_bound()
    if math.isinf(gain):
        gain = 1.0 if bound is None or bound >= 1 else 1 / (1 - bound)
    return max(gain, 1.0)


def _carried(within: Tensor, layer: InvertibleModule) -> Tensor:
    """Bound of the distance of two outputs of the layer if the inputs are ``within`` of each other; inf if unknown."""
    return torch.where(within == 0, within, layer.bi_lipschitz_bound()[0] * within)
