"""Form ``coupling``: additive coupling of unconstrained attention.

    y_1 = x_1 + A(x_2),    y_2 = x_2 + B(y_1)          inverse    x_2 = y_2 - B(y_1),    x_1 = y_1 - A(x_2)

A and B attend with row-stochastic weights in every mode: a dot product that is only averaged, as in the non-local
block, grows with the cube of its input, and rounding would swallow x_1.

Exactly invertible in one pass, log-determinant 0. What remains is rounding, which A and B amplify by how steep they
are: both streams stay in float32 or higher, and the error bound follows the steepness around the features
(:mod:`.local_bound`). RevNet (https://arxiv.org/abs/1707.04585), Reformer (https://arxiv.org/abs/2001.04451).
"""
import math

import torch
from torch import Tensor

from ...ops import Roulette, full_precision, max_token_norm
from ..base import InverseInfo, InvertibleModule, branch_steepness, check_converged, check_features
from ..spec import AttentionSpec
from .halves import check_halves, half_of
from .ordinary import OrdinaryBranch


class Coupling(InvertibleModule):
    """Reversible attention. The output is float32 where the input has half precision."""

    def __init__(self, spec: AttentionSpec):
        super().__init__()
        check_halves(spec)
        self.channels = spec.channels
        half = half_of(spec)
        self.first = OrdinaryBranch(half, half.channels, as_mmcv=False)
        self.second = OrdinaryBranch(half, half.channels, as_mmcv=False)

    def _dtype(self, x: Tensor) -> torch.dtype:
        return torch.promote_types(torch.promote_types(x.dtype, self.first.out.weight.dtype), torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        with full_precision(x.device):
            x1, x2 = x.to(self._dtype(x)).chunk(2, 1)
            y1 = x1 + self.first(x2)
            return torch.cat([y1, x2 + self.second(y1)], 1)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        """One pass; ``tol`` and ``max_iter`` are of no effect. It fails only where a number is not finite."""
        check_features(y, self.channels, finite=True)
        with full_precision(y.device):
            stored = torch.finfo(y.dtype).eps
            y = y.to(self._dtype(y))
            x = self._recover(y)
            residual = max_token_norm(y - self.forward(x))
            eps = torch.finfo(y.dtype).eps
            # of the sums, and of y where it came in a lower precision than it was computed in
            rounding = (2 * eps + (stored if stored > eps else 0)) * (max_token_norm(y) + max_token_norm(x))
            info = InverseInfo(torch.ones(len(y), dtype=torch.long, device=y.device), residual,
                               self._error(y.chunk(2, 1)[0], x.chunk(2, 1)[1], rounding, self._evaluation(y)),
                               x.flatten(1).isfinite().all(1))
            if strict:
                check_converged(x, info, None, tol, 1)
            return x, info

    @torch.no_grad()
    def recover_input(self, y: Tensor, tol: float, max_iter: int) -> Tensor:
        check_features(y, self.channels)
        with full_precision(y.device):
            x = self._recover(y.to(self._dtype(y)))
        return x if x.isfinite().all() else self.inverse(y, tol, max_iter)[0]  # which says what is wrong

    def _recover(self, y: Tensor) -> Tensor:
        y1, y2 = y.chunk(2, 1)
        x2 = y2 - self.second(y1)
        return torch.cat([y1 - self.first(x2), x2], 1)

    def _evaluation(self, y: Tensor) -> float:
        """Rounding of an evaluation of A, as a relative change of its input: sums over channels and over pixels."""
        return torch.finfo(y.dtype).eps * (self.channels + math.log2(y.shape[2] * y.shape[3]) + 16)

    def _error(self, y1: Tensor, x2: Tensor, error: Tensor, evaluation: float = 0.0,
               within: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)) -> Tensor:
        """Bound of the error of x when y is known up to ``error``, (B,); y1 and x2 are known up to ``within``."""
        error2 = error + self.second.difference(y1, error + evaluation * max_token_norm(y1), within[0])
        error1 = error + self.first.difference(x2, error2 + evaluation * max_token_norm(x2), within[1])
        return torch.hypot(error1, error2)

    @torch.no_grad()
    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        within = torch.as_tensor(within).expand_as(error)
        with full_precision(x.device):
            x1, x2 = x.to(self._dtype(x)).chunk(2, 1)
            y1 = x1 + self.first(x2)
            return self._error(y1, x2, error, within=(within + self.first.difference(x2, within), within))

    def lipschitz_bound(self, n: int | None = None) -> None:
        """None: the form needs no contraction and has none."""
        return None

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """0 for every x, shape (B,): both steps are triangular with ones on the diagonal."""
        check_features(x, self.channels)
        return torch.zeros(len(x), dtype=self._dtype(x), device=x.device)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float:
        return 0.0

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the Lipschitz constant of ``y - x`` at x, shape (B,)."""
        check_features(x, self.channels)
        x = x.to(self._dtype(x))
        return branch_steepness(lambda x: self.forward(x) - x, x)
