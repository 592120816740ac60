"""A skip connection that can be inverted: a part of the channels goes across, the others go through an inner network.

    x = (a, b)        y = (a, f(b))            inverse    x = (a, f^-1(b'))

The inner network f may change resolution on the way, as long as it returns to that of b: the levels of an invertible
U-Net are such layers, one inside the other (Etmann et al., https://arxiv.org/abs/2005.05220).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops import Move, Roulette, Step
from ..checks import check_features
from ..constant_weights import weights_of
from ..contract import InverseInfo, InvertibleModule, outputs


class InvertibleSkip(InvertibleModule):
    """``y = (a, f(b))``: the first ``across`` channels are unchanged, the others are transformed by ``inner``.

    The log-determinant is that of f. The error of x is at most ``sqrt(e_a^2 + e_b^2)``, where e_b is the error of the
    inverse of f. A memory-free pass (:class:`~mmseg_invattn.layers.MemoryFree`) keeps neither part.

    Args:
        channels: C, at least 2.
        inner: f, an invertible layer or sequence from ``channels - across`` channels to as many, of the same height and
            width. Its further outputs are those of this layer.
        across: channels that go across, from 1 to C - 1; ``C // 2`` by default.

    Raises:
        ValueError: an argument breaks its rule, or f changes the shape of its features.
    """

    def __init__(self, channels: int, inner: InvertibleModule, across: int | None = None):
        super().__init__()
        across = channels // 2 if across is None else across
        if not 0 < across < channels:
            raise ValueError(
                f'across={across} leaves an empty part of channels={channels}: choose 1 to {channels - 1}'
                if channels > 1
                else f'channels={channels} cannot be split in two: InvertibleSkip takes at least 2'
            )
        if not isinstance(inner, InvertibleModule):
            raise ValueError(f'inner is a {type(inner).__name__}, which is not invertible: give an InvertibleModule')
        self.channels, self.across, self.inner = channels, across, inner
        self.extra_outputs = inner.extra_outputs

    def weights(self) -> Any:
        return (weights_of(self.inner),)

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        halves = (self.across, self.channels - self.across)
        return [Move(halves), *self.inner.steps(tol, max_iter), Move(halves, takes=True)]

    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        a, b = self._parts(x)
        return self._joined(a, self.inner(b, None if weights is None else weights[0]))

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
        trunk, *extra = outputs(y)
        check_features(trunk, self.channels, finite=True)
        a, b = self._parts(trunk)
        own = None if weights is None else weights[0]
        b, info = self.inner.inverse((b, *extra) if extra else b, tol, max_iter, strict, own, certify, error)
        bound = self.inner.pixel_error(b, info.error_bound)
        bound = bound if error is None else (bound.square() + error.square()).sqrt()
        info = info._replace(residual=self.inner.pixel_error(b, info.residual), error_bound=bound)
        return torch.cat((a.to(b.dtype), b), 1), info

    def recover_input(
        self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int, weights: Any = None, mean: Tensor | None = None
    ) -> Tensor:
        trunk, *extra = outputs(y)
        a, b = self._parts(trunk)
        mean = None if mean is None else mean[:, self.across :]
        own = None if weights is None else weights[0]
        b = self.inner.recover_input((b, *extra) if extra else b, tol, max_iter, own, mean)
        return torch.cat((a.to(b.dtype), b), 1)

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self.inner.lipschitz_bound(n)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``sqrt(1 + L^2)`` for both directions: the errors of both parts of a pixel may be as large as they can be."""
        forward, backward = ((1 + bound**2) ** 0.5 for bound in self.inner.bi_lipschitz_bound())
        return forward, backward

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        b = self._parts(x)[1]
        inner = self.inner.inverse_error(b, error, within, None if weights is None else weights[0])
        return (error.square() + self.inner.pixel_error(b, inner).square()).sqrt()

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        a, b = self._parts(x)
        y, log_det = self.inner.forward_and_log_abs_det(b, n_terms, n_samples, None if weights is None else weights[0])
        return self._joined(a, y), log_det

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        return self.inner.log_abs_det_error_bound(self._parts(x)[1], n_terms)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_features(x, self.channels)
        return x[:, : self.across], x[:, self.across :]

    def _joined(self, a: Tensor, y: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        b, *extra = outputs(y)
        if b.shape != (len(a), self.channels - self.across, *a.shape[2:]):
            raise ValueError(
                f'the inner layer of InvertibleSkip({self.channels}, across={self.across}) returned features of shape '
                f'{tuple(b.shape)}; it has to return {(len(a), self.channels - self.across, *a.shape[2:])}, as it got '
                'them'
            )
        trunk = torch.cat((a.to(b.dtype), b), 1)
        return (trunk, *extra) if self.extra_outputs else trunk

    def extra_repr(self) -> str:
        return f'{self.channels}, across={self.across}'
