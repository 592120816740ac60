"""The interface of every invertible layer and what it guarantees."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import InverseStep, Move, Roulette, Step, max_token_norm
from ..wording import counted


class InverseInfo(NamedTuple):
    """The report of an inverse. Every field but ``precision`` has shape (B,), with errors and bounds in float64.

    Attributes:
        iterations: evaluations of the branch.
        residual: ``|y - layer(x_hat)|`` in the units of the features and in the norm of the layer
            (:meth:`InvertibleModule.error_norm`, inf2 unless the layer says otherwise), evaluated in float64.
        error_bound: upper bound of ``|x_hat - x|`` in the same units and norm; NaN if nothing can be certified. For a
            residual layer it is ``(residual + rounding) / (1 - lipschitz)``.
        converged: whether the error bound met the tolerance, or came as close as the precision of the dtype allows.
        rounding: upper bound of the rounding error of the forward pass, part of ``error_bound``; NaN if unknown.
        lipschitz: upper bound of the branch's Lipschitz constant between x_hat and x; 0 for a layer with an explicit
            inverse, NaN if unknown.
        precision: the precision in which the error bound assumes y to be computed: ``'float32'``, ``'float64'``, or
            ``'autocast'``, which covers bfloat16, float16, TF32 and float32.

    For a composition: the residual of the whole, evaluated in the dtype of the features; the largest rounding and the
    largest Lipschitz bound of a layer.
    """

    iterations: Tensor
    residual: Tensor
    error_bound: Tensor
    converged: Tensor
    rounding: Tensor
    lipschitz: Tensor
    precision: str = 'float32'

    def first(self, count: int) -> 'InverseInfo':
        """The report of the first ``count`` samples."""
        return self._replace(**{name: field[:count] for name, field in self._asdict().items() if name != 'precision'})


class NotConvergedError(RuntimeError):
    """An inverse did not meet its tolerance. ``.x`` and ``.info`` hold its result and its report."""

    def __init__(self, message: str, x: Tensor, info: InverseInfo):
        super().__init__(message)
        self.x, self.info = x, info


class InvertibleModule(nn.Module, ABC):
    """A map of feature maps (B, C, H, W) with an inverse.

    ``forward`` and ``inverse`` use the same weights in train and eval mode: no batch statistics, no dropout.
    ``layer.inverse(layer(x))[0]`` equals x within ``info.error_bound``.

    :meth:`weights` returns everything that a layer derives from its parameters (normalised matrices, their norms).
    Every call derives it again, once, and passes it on; nothing is stored between calls. To use the same weights in
    several calls, pass them as an argument. If no parameter changes, use
    :func:`~mmseg_invattn.layers.constant_weights`.

    A layer with ``extra_outputs`` returns a tuple (trunk, extra outputs...) and its inverse takes that tuple; the norm
    of such a y is the largest norm of its members.
    """

    extra_outputs: int = 0
    begins_at_mean = False  # whether recover_input uses the mean of x

    def weights(self) -> Any:
        """All that the layer derives from its parameters, as nested tuples of tensors; () if there is nothing."""
        return ()

    def start(self, x: Tensor) -> None:
        """Initialises data-dependent state from the first batch in training mode; called before a forward pass."""

    @abstractmethod
    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        """Computes y from x.

        Args:
            x: shape (B, C, H, W).
            weights: from :meth:`weights`; None derives them now, after :meth:`start`.
        """

    @abstractmethod
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
        """Recovers x from ``y = layer(x)``.

        Args:
            y: shape (B, C, H, W). Half precision is computed, and returned, in float32.
            tol: largest error, relative to the largest token norm of the sample.
            max_iter: largest number of evaluations of the branch.
            strict: raise an error if a sample does not converge; otherwise ``info.converged`` tells which ones did.
            weights: as in :meth:`forward`.
            certify: evaluate the residual in float64 and bound the error; otherwise ``error_bound`` is NaN, and the
                residual is that of the solver.
            error: bound of ``|y' - y|_inf2``, shape (B,), if the argument y is only an approximation y' of the output y
                of the layer. Then the error bound refers to the x that gave y, and ``converged`` to the x that would
                give y'.

        Raises:
            NotConvergedError: with ``strict``, if a sample does not meet ``tol`` within ``max_iter``.
            ValueError: y has the wrong shape, is empty or holds a value that is not finite.
        """

    def recover_input(
        self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int, weights: Any = None, mean: Tensor | None = None
    ) -> Tensor:
        """Returns only x, without a report, for a backward pass; otherwise as :meth:`inverse`.

        Args:
            mean: mean of x over the pixels, (B, C, 1, 1), if it is known: a solver can start closer to x.
        """
        return self.inverse(y, tol, max_iter, weights=weights, certify=False)[0]

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        """The steps of a memory-free pass (:mod:`~mmseg_invattn.ops.steps`); by default one that uses the inverse.

        Args:
            tol: as in :meth:`recover_input`; None means the precision of the dtype.
            max_iter: as in :meth:`recover_input`.
        """
        return [inverse_step(self, lambda x, weights: outputs(self(x, weights)), tol, max_iter)]

    @abstractmethod
    def lipschitz_bound(self, n: int | None = None) -> float | None:
        """Certified upper bound of the residual branch's Lipschitz constant in the norm inf2.

        It is 0.0 for a layer with an explicit inverse, which has no branch, and None without a certificate. For a
        composition it is the largest bound of its layers: every layer converges at that rate or faster.

        Args:
            n: number of pixels; None means a bound for every number. It only matters for ``sharpness='log_n'`` and mode
                l2.
        """

    @abstractmethod
    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        """y, and ``log|det(dy/dx)|`` of each sample in nats, from one evaluation of the layer.

        The memory for the gradient of the determinant does not depend on ``n_terms``. Layers whose determinant has a
        closed form ignore ``n_terms`` and ``n_samples``. With gradients enabled, attention uses operators that are
        twice differentiable and builds its N x M map; under ``torch.no_grad()`` the fused kernel is used.

        Args:
            x: shape (B, C, H, W).
            n_terms: number of terms of the power series (its expectation has an error of at most
                :meth:`log_abs_det_error_bound`), ``'roulette'`` or :class:`~mmseg_invattn.ops.Roulette` (no bias),
                ``'exact'`` (small inputs).
            n_samples: random probes to average over.
            weights: as in :meth:`forward`.

        Returns:
            y as from :meth:`forward`, and a tensor of shape (B,), float32 or higher.

        Raises:
            ValueError: an impossible ``n_terms`` or ``n_samples``, or the exact form of a large input.
        """

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """The second result of :meth:`forward_and_log_abs_det`."""
        return self.forward_and_log_abs_det(x, n_terms, n_samples)[1]

    @abstractmethod
    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        """Bound of ``|E[log_abs_det] - log|det||`` at x, in nats, shape (B,), float64; None if there is none."""

    @abstractmethod
    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Upper bounds (of Lip(f), of Lip(f^-1)) in the norm inf2; ``inf`` if none is known.

        If y has an error of at most e, x has one of at most ``Lip(f^-1) e``.
        """

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        """How far the exact inverse moves if y changes by ``error``: bound of ``|f^-1(y') - f^-1(y)|``, shape (B,).

        It is ``Lip(f^-1) error``; layers whose inverse is not uniformly Lipschitz use a bound around x instead. NaN if
        no bound is known.

        Args:
            x: the inverse of y', up to ``within``.
            error: bound of ``|y' - y|_inf2``, shape (B,).
            within: bound of ``|x - f^-1(y')|`` in the norm of the layer, shape (B,).
            weights: as in :meth:`forward`.
        """
        gain = self.bi_lipschitz_bound()[1]
        # an error of exactly 0 stays 0 even if the gain is not known
        return torch.where(error == 0, error, gain * error if gain < float('inf') else torch.nan)

    def error_norm(self, x: Tensor) -> Tensor:
        """The norm in which residuals and error bounds of x are given, (B, C, H, W) -> (B,)."""
        return max_token_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        """Bound in the norm inf2 of an error of x whose :meth:`error_norm` is at most ``error``, shape (B,)."""
        return error


def assumed_precision(layer: nn.Module, dtype: torch.dtype) -> str:
    """The value of ``info.precision`` for a layer that computes in the dtype."""
    return (
        'autocast'
        if getattr(layer, 'precision', 'float32') == 'autocast' and dtype != torch.float64
        else str(dtype).removeprefix('torch.')
    )


def inverse_step(
    layer: InvertibleModule,
    evaluate: Callable[[Tensor, Any], tuple[Tensor, ...]],
    tol: float | None = None,
    max_iter: int = 1000,
    more_outputs: int = 0,
) -> InverseStep:
    """The step that recovers the input by the inverse of the layer.

    Args:
        evaluate: (x, weights) -> the outputs of the layer, then ``more_outputs`` that the inverse does not need.
        tol: as in :meth:`InvertibleModule.steps`.
        max_iter: as in :meth:`InvertibleModule.steps`.
        more_outputs: how many there are.
    """

    def recover(y: tuple[Tensor, ...], weights: Any, mean: Tensor | None) -> Tensor:
        y = y[: 1 + layer.extra_outputs]
        accuracy = torch.finfo(y[0].dtype).eps if tol is None else tol
        return layer.recover_input(y if layer.extra_outputs else y[0], accuracy, max_iter, weights, mean)

    return InverseStep(
        evaluate,
        recover,
        layer.weights,
        lambda: tuple(layer.parameters()),
        lambda: tuple(layer.buffers()),
        layer.extra_outputs + more_outputs,
        layer.begins_at_mean,
    )


def composed_error(layer: InvertibleModule, x: Tensor, info: InverseInfo, error: Tensor, weights: Any = None) -> Tensor:
    """Error of ``x = layer.inverse(y')`` if y' approximates y up to ``error``: the rule of every composed inverse.

    With f the layer, ``|x - f^-1(y)| <= |x - f^-1(y')| + |f^-1(y') - f^-1(y)|``: the error bound of the layer itself,
    plus the effect of the error of y' on its exact inverse. For a residual layer this is ``(|r| + error) / (1 - L)``.

    Args:
        layer: f.
        x: the result of its inverse.
        info: the report of its inverse.
        error: bound of ``|y' - y|_inf2``, shape (B,).
        weights: of the layer.
    """
    return info.error_bound + layer.inverse_error(x, error, info.error_bound, weights)


def check_converged(x: Tensor, info: InverseInfo, lipschitz: float | None, tol: float, max_iter: int) -> None:
    """Raises :class:`NotConvergedError`, with the result and the report, unless every sample converged."""
    if not info.converged.all():
        raise NotConvergedError(
            f'the inverse of {int((~info.converged).sum())} of {counted(len(x), "sample")} did not reach tol={tol} '
            f'within max_iter={max_iter} evaluation{"s" * (max_iter != 1)} (largest residual '
            f'{float(info.residual.max()):.3g}, certified Lipschitz bound {lipschitz}): raise max_iter or '
            'tol, or pass strict=False',
            x,
            info,
        )


def outputs(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output of a layer as a tuple (trunk, extra outputs...)."""
    return (y,) if isinstance(y, Tensor) else tuple(y)
