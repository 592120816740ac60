"""Composition of invertible layers, and the rule by which errors compose.

The inverse runs from the last layer to the first. Layer k gets a y that is known up to ``e_k`` and leaves an error of
its own, ``b_k`` (for a residual layer ``(|r| + rounding) / (1 - L)``), so x is known up to

    e_(k-1) = Lip(f_k^-1) e_k + b_k,      which for a residual layer is (e_k + |r| + rounding) / (1 - L)

(:func:`~mmseg_invattn.layers.contract.composed_error`; where ``f_k^-1`` is not uniformly Lipschitz, its bound around x)

and the error bound of the sequence is e_0. It starts from 0, since every layer counts the rounding of its own y; where
y was stored in half precision, it starts from what that cast away.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops import Roulette, Step, max_token_norm, storage_error
from ..wording import counted
from .certificate import NOTHING, USEFUL
from .constant_weights import holding, weights_of
from .contract import InverseInfo, InvertibleModule, NotConvergedError, check_features, outputs
from .parameters import compute_dtype


class InvertibleSequential(InvertibleModule):
    """``y = f_n(... f_1(x))``.

    With splits among the layers y is a tuple (trunk, latents in the order in which they were split off). Between the
    layers features have the widest dtype of x and the parameters, float32 or higher; y has the dtype of x.

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
        # a ModuleList does not say what it is a list of
        self.layers = cast(Sequence[InvertibleModule], nn.ModuleList(layers))
        self.extra_outputs = sum(layer.extra_outputs for layer in layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> InvertibleModule:
        return self.layers[index]

    def __iter__(self) -> Iterator[InvertibleModule]:
        return iter(self.layers)

    def weights(self) -> tuple:
        """Those of the layers, in their order."""
        return tuple(weights_of(layer) for layer in self.layers)

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
        """Those of the layers: two streams stay apart through all the couplings in a row."""
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
        """The determinant is the sum over the layers, each at what the ones before it made of x."""
        check_features(x, None)
        trunk, extra = x.to(compute_dtype(self, x)), []
        total = trunk.new_zeros(())
        for layer, own in zip(self.layers, self._each(weights), strict=True):
            y, log_det = layer.forward_and_log_abs_det(trunk, n_terms, n_samples, own)
            trunk, *rest = outputs(y)
            extra, total = extra + rest, total + log_det
        return self._stored((trunk, *extra), x.dtype), total

    def _each(self, weights: Any) -> Sequence[Any]:
        """The weights of each layer; None lets each derive its own when its turn comes."""
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
        """As in the contract, with ``max_iter`` for each layer.

        Layer k is asked for ``tol / (n Lip(f_1^-1) ... Lip(f_(k-1)^-1))`` relative to its own output, so that what the
        layers behind it make of its error stays within the share; ``info.iterations`` is the sum over the layers and
        ``info.converged`` says whether all of them met what they were asked for, or the precision of the dtype.
        ``info.error_bound`` is NaN where an error met a layer that does not bound it. Residual and bound are in the
        norm of the first layer.
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
        # what storing y in a lower precision than that of the layers changed at most
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
        converged = info.converged & ~(bound > USEFUL * size)  # unknown behind a layer without a bound
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
        """x, what the layers report together, and the layers that did not converge.

        Args:
            trunk: the first output.
            extra: the others.
            error: by how much the trunk was rounded when it was stored.
            stored: the same of the others.
            weights: of the layers, which hold them.
        """
        # what the layers before layer k make of its error
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
            # what overflowed is lost: it goes on as zeros, known to no precision
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
        """The largest of the layers' bounds, of each one's branch; None where a layer has no certificate."""
        bounds = [layer.lipschitz_bound(n) for layer in self.layers]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if len(known) == len(bounds) else None

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """The products over the layers."""
        forward, backward = zip(*(layer.bi_lipschitz_bound() for layer in self.layers), strict=True)
        return math.prod(forward), math.prod(backward)

    @torch.no_grad()
    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        """Through the layers from the last to the first, each around what the ones before it make of x."""
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
        """The sum over the layers, each at what the ones before it make of x."""
        x, total = x.to(compute_dtype(self, x)), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for layer in self.layers:
            bound = layer.log_abs_det_error_bound(x, n_terms)
            if bound is None:
                return None
            x, total = outputs(layer(x))[0], total + bound
        return total


def _gain(layer: InvertibleModule) -> float:
    """What a tolerance allows for: ``Lip(f^-1)``, or ``1 / (1 - L)`` of the branch, or 1 where neither is known."""
    gain = layer.bi_lipschitz_bound()[1]
    bound = layer.lipschitz_bound()
    if math.isinf(gain):
        gain = 1.0 if bound is None or bound >= 1 else 1 / (1 - bound)
    return max(gain, 1.0)


def _carried(within: Tensor, layer: InvertibleModule) -> Tensor:
    """How far apart two inputs of the layer that are ``within`` come out; inf where that is not known."""
    return torch.where(within == 0, within, layer.bi_lipschitz_bound()[0] * within)
