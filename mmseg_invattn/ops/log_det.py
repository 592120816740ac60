"""The log-determinant of a residual map ``f(x) = x + g(x)`` with ``Lip(g) <= L < 1``, J the Jacobian of g.

    log|det(I + J)| = sum_k (-1)^(k+1) / k tr(J^k),    tr(J^k) = E v^T J^k v   (Hutchinson, v of random signs)

Truncated after n terms, the expectation has an error of at most ``rank(J) sum_(k > n) L^k / k``, because every
eigenvalue of J is at most L in absolute value. Russian roulette draws n at random and divides term k by P(n >= k), so
it has no bias.

The gradient (Chen et al., Residual Flows, https://arxiv.org/abs/1906.02735) is not the derivative of that sum, whose
graph would hold every term. With the same probes and ``w^T = sum_j (-1)^j v^T J^j``, j = 0 .. n-1,

    d log|det(I + J)| = tr((I + J)^-1 dJ) = E w^T dJ v

needs a graph only for one product ``w^T J v``, in which w is a constant. So its memory does not depend on n. Its
expectation is the derivative of the truncated sum's expectation, and with roulette it has no bias either.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import at_least_float32, full_precision
from .second_derivative import twice_differentiable

# The exact form takes one backward pass for every dimension and a matrix of dim^2 numbers for every sample.
EXACT_LIMIT = 4096
TAIL = 1000  # terms of a bound that are summed one by one; the rest is bounded by a geometric series


class Roulette(NamedTuple):
    """Russian roulette: always ``exact_terms`` terms, then each further term with probability ``keep``.

    The number of terms is drawn once per batch.

    Attributes:
        exact_terms: more of them mean less variance.
        keep: in (0, 1); None means ``max(0.5, L)``. The variance is finite only if ``keep > rho(J)^2``, so a fixed 0.5
            is not enough for spectral radii above 0.7.
    """

    exact_terms: int = 4
    keep: float | None = None


def branch_and_log_abs_det(
    branch: Callable[[Tensor], Tensor],
    x: Tensor,
    n_terms: int | str | Roulette = 10,
    n_samples: int = 1,
    lipschitz: Callable[[], float | None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """``g(x)`` and ``log|det(I + dg/dx)|`` of each sample, from one evaluation of g.

    With gradients enabled the branch is evaluated inside :func:`~mmseg_invattn.ops.twice_differentiable`, because the
    gradient needs the derivative of a vector-Jacobian product; under ``torch.no_grad()`` the fused kernels are used.

    Args:
        branch: g, from (B, ...) to the same shape; the output of a sample depends on that sample alone. Called once.
        x: shape (B, ...).
        n_terms: number of terms of the power series; ``'roulette'`` or a :class:`Roulette` for an unbiased estimate;
            ``'exact'`` for the determinant of the Jacobian.
        n_samples: probes to average over; without effect on the exact form. The memory of the gradient is proportional
            to it.
        lipschitz: returns L; called only if the roulette depends on it. Without an L below 1 the series may diverge.

    Returns:
        g(x), and a tensor of shape (B,), float32 or higher; differentiable in x and in what ``branch`` uses.

    Raises:
        ValueError: an unknown or impossible ``n_terms`` or ``n_samples``, or the exact form of more than 4096
            dimensions.
    """
    check_samples(n_samples)
    exact = isinstance(n_terms, str) and n_terms == 'exact'
    coefficients = () if exact else series_coefficients(n_terms, n_samples, lipschitz)
    dim = x[0].numel()
    if exact and dim > EXACT_LIMIT:
        raise ValueError(
            f"n_terms='exact' of a feature map with {dim} values per sample: the exact determinant is for "
            f"at most {EXACT_LIMIT}; use a number of terms or n_terms='roulette'"
        )
    differentiable = torch.is_grad_enabled()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        twice_differentiable(differentiable),
        full_precision(x.device),
    ):
        x = at_least_float32(x.clone() if x.is_inference() else x)
        if not (differentiable and x.requires_grad):
            x = x.detach().requires_grad_()
        g = branch(x)
        if exact:
            log_det = _exact(g, x, differentiable)
        else:
            probes = (_one_probe(g, x, coefficients, differentiable) for _ in range(n_samples))
            log_det = reduce(add, probes) / n_samples
    return (g, log_det) if differentiable else (g.detach(), log_det.detach())


def truncation_bound(rank: float, lipschitz: Tensor, n_terms: int) -> Tensor:
    """``rank(J) sum_(k > n) L^k / k``: the largest error of the expectation of the series truncated after n terms.

    J^k has at most rank(J) eigenvalues that are not 0, each of at most L^k in absolute value. The bound is in nats per
    sample; it does not include the random error of the probes.

    Args:
        rank: bound of the rank of J.
        lipschitz: bound of Lip(g) at the features, below 1, shape (B,).
        n_terms: n.
    """
    L = lipschitz.double()
    k = torch.arange(n_terms + 1, n_terms + 1 + TAIL, dtype=torch.float64, device=L.device)
    rest = L ** (n_terms + 1 + TAIL) / ((n_terms + 1 + TAIL) * (1 - L))
    return rank * ((L[..., None] ** k / k).sum(-1) + rest) * (1 + 1e-12)


def check_samples(n_samples: int) -> None:
    """Raises ValueError unless ``n_samples`` is a positive integer."""
    if not isinstance(n_samples, int) or n_samples < 1:
        raise ValueError(f'n_samples={n_samples!r} is not a positive integer: it is the number of random probes')


def series_coefficients(
    n_terms: int | str | Roulette, n_samples: int, lipschitz: Callable[[], float | None]
) -> tuple[float, ...]:
    """Factors of the terms, (c_1, ..., c_n): 1, or for roulette 1 divided by the probability of the term.

    For roulette, n is drawn here.

    Raises:
        ValueError: an impossible ``n_terms`` or ``n_samples``.
    """
    check_samples(n_samples)
    if isinstance(n_terms, str) and n_terms == 'roulette':
        n_terms = Roulette()
    if isinstance(n_terms, Roulette):
        exact_terms, keep = n_terms
        keep = max(0.5, min(lipschitz() or 0.0, 0.999)) if keep is None else keep
        if exact_terms < 0 or not 0 < keep < 1:
            raise ValueError(f'{n_terms} is not possible: exact_terms must be at least 0 and keep between 0 and 1')
        draw = 1 - torch.rand((), dtype=torch.float64)
        extra = int(draw.log() / torch.tensor(keep, dtype=torch.float64).log())  # P(extra >= j) = keep^j
        return (1.0,) * exact_terms + tuple(keep**-j for j in range(1, extra + 1))
    if not isinstance(n_terms, int) or isinstance(n_terms, bool) or n_terms < 1:
        raise ValueError(f"n_terms={n_terms!r} is neither a positive integer nor 'roulette', Roulette(...) or 'exact'")
    return (1.0,) * n_terms


def _one_probe(g: Tensor, x: Tensor, coefficients: tuple[float, ...], differentiable: bool) -> Tensor:
    v = torch.randint(0, 2, x.shape, device=x.device).to(x.dtype) * 2 - 1
    value = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    power, w = v, torch.zeros_like(v)  # v^T J^k and sum_j (-1)^j c_(j+1) v^T J^j
    for k, c in enumerate(coefficients, 1):
        sign = 1 if k % 2 else -1
        w = w + sign * c * power
        power = _vjp(g, x, power)
        value = value + sign * c / k * _dot(power, v)
    if differentiable:
        surrogate = _dot(_vjp(g, x, w, create_graph=True), v)
        value = value + surrogate - surrogate.detach()
    return value


def _exact(g: Tensor, x: Tensor, differentiable: bool) -> Tensor:
    """``slogdet(I + J)`` in float64."""
    # Samples are independent: one backward pass gives the same row of the Jacobian of every sample.
    basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
    rows = [_vjp(g, x, unit.expand_as(x), create_graph=differentiable).flatten(1) for unit in basis]
    jacobian = torch.stack(rows, 1).double()
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=x.device)
    return torch.linalg.slogdet(eye + jacobian)[1].to(x.dtype)


def _vjp(g: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    return torch.autograd.grad(g, x, v, retain_graph=True, create_graph=create_graph)[0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
