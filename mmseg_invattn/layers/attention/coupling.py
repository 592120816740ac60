"""Form ``coupling``: additive coupling of unconstrained attention.

    y_1 = x_1 + A(x_2),    y_2 = x_2 + B(y_1)          inverse    x_2 = y_2 - B(y_1),    x_1 = y_1 - A(x_2)

A and B use row-stochastic weights in every mode: dot products that are only averaged, as in the non-local block, grow
with the cube of the input, and x_1 would be lost to rounding.

The form is exactly invertible in one pass, with log-determinant 0. Only rounding remains, which A and B amplify by
their local Lipschitz constants. So both streams stay in float32 or higher, and the error bound uses the local Lipschitz
constants around the features (:mod:`.local_bound`). See RevNet (https://arxiv.org/abs/1707.04585) and Reformer
(https://arxiv.org/abs/2001.04451).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import (
    AdditiveStep,
    Roundoff,
    Step,
    branch_precision,
    cast_all,
    differentiable_copies,
    full_precision,
    local_lipschitz,
    max_token_norm,
)
from ..checks import check_features, check_precision
from ..constant_weights import weights_of
from ..explicit import Accuracy, ExplicitInverse
from ..parameters import compute_dtype
from .options import LocalAttentionOptions, read_options
from .ordinary_branch import OrdinaryBranch, OrdinaryWeights


class CouplingWeights(NamedTuple):
    """Weights of A and of B."""

    first: OrdinaryWeights
    second: OrdinaryWeights


class CouplingAttention2d(ExplicitInverse):
    """Reversible attention, (B, C, H, W) -> (B, C, H, W). The output is float32 if the input has half precision.

    Args:
        in_channels: C, even.
        precision: of A and B in the forward pass, ``'float32'`` or ``'autocast'``, as in
            :class:`~.certified.CertifiedAttention2d`. The streams are float32 in both cases.
        attention: the options of :class:`~.options.LocalAttentionOptions`: mode, reduction, num_heads, bias, position,
            position_size, key_pooling, neighbourhood, window_size, window_shift. A reduction that does not divide half
            of the channels is replaced by the next smaller one that does.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.
    """

    channels: int
    evaluations = 1
    wide_output = True

    def __init__(self, in_channels: int, *, precision: str = 'float32', **attention: Any):
        super().__init__()
        options = read_options(type(self), LocalAttentionOptions, attention)
        options.check_halves(in_channels)
        check_precision(precision)
        self.precision = precision
        self.channels = in_channels
        half = in_channels // 2
        options = options.fitted(half)
        self.first = OrdinaryBranch(half, options, as_mmcv=False)
        self.second = OrdinaryBranch(half, options, as_mmcv=False)

    def weights(self) -> CouplingWeights:
        with full_precision(self.first.out.weight.device):
            return CouplingWeights(self.first.weights(), self.second.weights())

    def working_dtype(self, x: Tensor) -> torch.dtype:
        return compute_dtype(self, x)

    def forward(self, x: Tensor, weights: CouplingWeights | None = None) -> Tensor:
        check_features(x, self.channels)
        x = x.to(self.working_dtype(x))
        cast = cast_all(weights_of(self, weights), x.dtype)
        with branch_precision(self.precision, x.device):
            x1, x2 = x.chunk(2, 1)
            y1 = x1 + self.first(x2, cast.first)
            return torch.cat([y1, x2 + self.second(y1, cast.second)], 1)

    def transform(self, x: Tensor, weights: CouplingWeights) -> Tensor:
        return self.forward(x, weights)

    def solve(self, y: Tensor, weights: CouplingWeights) -> Tensor:
        weights = cast_all(weights, y.dtype)
        y1, y2 = y.chunk(2, 1)
        x2 = y2 - self.second(y1, weights.second)
        return torch.cat([y1 - self.first(x2, weights.first), x2], 1)

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
        """A changes the first half, then B the second."""
        return [self._step(self.first, 1), self._step(self.second, 0)]

    def _step(self, branch: OrdinaryBranch, passes: int) -> Step:
        def net(passed: Tensor, changed: Tensor) -> Tensor:
            with branch_precision(self.precision, passed.device):
                return branch(passed, cast_all(branch.weights(), passed.dtype)).to(changed.dtype)

        return AdditiveStep(
            net,
            passes,
            (self.channels // 2, self.channels // 2),
            lambda: tuple(branch.parameters()),
            lambda: tuple(branch.buffers()),
        )

    def accuracy(
        self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: CouplingWeights
    ) -> Accuracy:
        """The accuracy of an inverse.

        If y was not rounded when it was stored, B reads exactly the y_1 of the forward pass, so the inverse subtracts
        exactly what the forward pass added. A reads an x_2 with an error e_2, where its rounding may differ:

            e_2 <= |r_2| + u |y_2|,      e_1 <= |r_1| + u |y_1| + |A(x_2') - A(x_2)| + rounding of A at both

        Here ``r_2 = y_2 - x_2 - B(y_1)`` and ``r_1 = y_1 - x_1 - A(x_2)`` are computed with A and B in float32, as in
        an inverse outside autocast. If the forward pass may have followed autocast, the rounding of B may differ too.
        """
        weights, u = cast_all(weights, x.dtype), Roundoff.of(x.dtype, self.precision == 'autocast')
        (x1, x2), (y1, y2), kept = x.chunk(2, 1), y[0].chunk(2, 1), stored[0].chunk(2, 1)
        added = self.first(x2, weights.first), self.second(y1, weights.second)
        sums = x1.double() + added[0].double(), x2.double() + added[1].double()
        residual = [max_token_norm(part.double() - sum_) for part, sum_ in zip((y1, y2), sums, strict=True)]
        rounded = [u.sums * max_token_norm(sum_) + max_token_norm(off) for sum_, off in zip(sums, kept, strict=True)]
        error2, off = residual[1] + rounded[1], max_token_norm(kept[0])
        if u.casts or bool((off > 0).any()):
            error2 = error2 + self.second.difference(y1.double(), off, 0.0, weights.second, added[1], u)
        moved = self.first.difference(x2.double(), error2, 0.0, weights.first, added[0], u)
        error1 = residual[0] + rounded[0] + moved
        return Accuracy(torch.hypot(*residual), torch.hypot(*rounded), torch.hypot(error1, error2))

    @torch.no_grad()
    def inverse_error(
        self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: CouplingWeights | None = None
    ) -> Tensor:
        """``e_2 <= e + |B(y_1 + e) - B(y_1)|``, ``e_1 <= e + |A(x_2 + e_2) - A(x_2)|``."""
        within = torch.as_tensor(within, device=x.device).double().expand_as(error)
        x = x.to(self.working_dtype(x))
        cast = cast_all(weights_of(self, weights), x.dtype)
        with full_precision(x.device):
            x1, x2 = x.chunk(2, 1)
            y1 = (x1 + self.first(x2, cast.first)).double()
            moved = self.first.difference(x2.double(), within, 0.0, cast.first)
            error2 = error + self.second.difference(y1, error, within + moved, cast.second)
            error1 = error + self.first.difference(x2.double(), error2, within, cast.first)
            return torch.hypot(error1, error2)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``inf``: there are no bounds, because attention is steeper for larger inputs. See :meth:`inverse_error`."""
        return math.inf, math.inf

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the Lipschitz constant of ``y - x`` at x, shape (B,). It has no upper bound."""
        check_features(x, self.channels)
        with torch.inference_mode(False), full_precision(x.device):
            x = differentiable_copies(x).to(self.working_dtype(x))
            return local_lipschitz(lambda x: self.forward(x) - x, x, lambda t: t.flatten(2).mT)

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.first.attention.options.mode!r}'
