"""A priori bounds of rounding errors, from the sizes of the numbers that are added.

u = eps / 2 is the unit roundoff: an operation has a relative error d, ``|d| <= u``. For a few operations the worst case
is counted, u each. For many, the d are taken as independent with mean zero (Higham and Mary 2019,
https://doi.org/10.1137/18M1226312). A sum of n terms t_k makes the errors ``d_k s_k`` with its partial sums s_k. For
terms in random order ``sum_k |s_k|^2`` is about ``n (sum t^2 / 6 + s_n^2 / 3)``. With d uniform in [-u, u], the root
mean square of the error is

    u sqrt(n) sqrt(sum t^2 / 18 + s_n^2 / 9)  <=  u sqrt(n) sqrt(sum t^2 + s_n^2) / 3

The norm of a vector of D such errors is closer to its root mean square if D is larger: :func:`sum_rounding` allows
``(1 + 6 / sqrt(D))`` times that. For a matrix product, all rows together have ``sum t^2 = sum_k |W_:k|^2 x_k^2``, at
most ``max_k |W_:k|^2 |x|^2`` (:func:`product_rounding`).
"""

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

ALIKE = 2.0**-5  # up to this relative spread, numbers are assumed to round in the same way, as in a constant map


# Numbers below the smallest normal one may be flushed to 0: the error of a sum from this, per term.
UNDERFLOW = torch.finfo(torch.float32).tiny


class Roundoff(NamedTuple):
    """The rounding errors of the arithmetic in a forward pass.

    Attributes:
        sums: u of the dtype in which sums are computed.
        casts: u of the dtype to which the factors and results of matrix products are cast; 0 without casts.
        underflow: absolute error that a number of any size may have.
    """

    sums: float
    casts: float
    underflow: float

    @classmethod
    def of(cls, dtype: torch.dtype, autocast: bool = False) -> 'Roundoff':
        """For a dtype, including the rounding of the float64 evaluation with which results are compared.

        Args:
            autocast: the forward pass may have run under autocast or with TF32. The worst case of all of them is
                assumed: bfloat16 is the coarsest, and float16 loses small numbers. float64 is never cast.
        """
        u = unit_roundoff(dtype) + unit_roundoff(torch.float64)
        if autocast and dtype != torch.float64:
            smallest = torch.finfo(torch.float16).smallest_normal * unit_roundoff(torch.float16)
            return cls(u, unit_roundoff(torch.bfloat16), smallest)
        return cls(u, 0.0, UNDERFLOW)

    @property
    def any(self) -> float:
        """u of a number that is computed and then, if there are casts, cast."""
        return self.sums + self.casts


EXACT = Roundoff(0.0, 0.0, 0.0)


def unit_roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff u of a dtype."""
    return torch.finfo(dtype).eps / 2


def ball_rounding(channels: int, radius: Tensor, u: float) -> Tensor:
    """Relative rounding of ``b = x / sqrt(a^2 + |x|^2)``: ``u (4 + log_2(C + 1) |b|^2 / 2)``.

    The 4 counts a difference, a root and two products. The rest is the pairwise sum of C squares, weighted by the share
    of ``|x|^2`` in ``a^2 + |x|^2``.

    Args:
        channels: C.
        radius: largest |b|.
        u: unit roundoff of the dtype of the computation.
    """
    return u * (4 + math.log2(channels + 1) * radius.square() / 2)


def sum_rounding(n: int, dimensions: int, u: float) -> float:
    """Rounding of a vector whose D entries are sums of n terms each, relative to ``sqrt(sum t^2)``.

    Args:
        n: terms of each sum.
        dimensions: D.
        u: unit roundoff of the dtype of the computation.
    """
    return u * n**0.5 * (1 + 6 / dimensions**0.5) / 3


def product_rounding(weight: Tensor, u: float) -> Tensor:
    """Rounding of ``W x`` for ``|x| <= 1``.

    Args:
        weight: (..., M, K).
        u: unit roundoff of the dtype of the computation.

    Returns:
        Tensor of shape (...,).
    """
    rows, terms = weight.shape[-2:]
    return sum_rounding(terms, rows, u) * torch.linalg.vector_norm(weight, dim=-2).amax(-1)


def factor_rounding(dimensions: int, u: float) -> float:
    """Rounding of sums of products whose factors were cast, relative to ``sqrt(sum t^2)`` as in :func:`sum_rounding`.

    Each factor has a relative error of at most u, so a product has one of ``u sqrt(2 / 3)`` in root mean square.
    """
    return u * (2 / 3) ** 0.5 * (1 + 6 / dimensions**0.5)


def cast_rounding(weight: Tensor, norm: Tensor, u: float) -> Tensor:
    """Error of ``W x`` for ``|x| <= 1`` when W, x and ``W x`` are cast; the cast of the result contributes ``u |W|``.

    Args:
        weight: (..., M, K).
        norm: bound of its spectral norm, (...,).
        u: unit roundoff of the dtype of the cast.

    Returns:
        Tensor of shape (...,).
    """
    column = torch.linalg.vector_norm(weight, dim=-2).amax(-1)
    return torch.hypot(factor_rounding(weight.shape[-2], u) * column, u * norm)


def drift(values: Tensor, mean: Tensor, spread: Tensor, n: int, u: float) -> Tensor:
    """Rounding of weighted sums of n nearly equal terms: their errors are nearly equal too and add up.

    The error is ``n u / 2`` of the sum.

    Args:
        values: (..., N, E), the terms.
        mean: (..., M, E), their weighted sums; the weights add up to 1.
        spread: (..., M), of the values around those sums.
        n: number of terms.
        u: unit roundoff of the dtype of the computation.

    Returns:
        Tensor of shape (..., M): 0 where the values vary.
    """
    alike = values.std(-2, correction=0, keepdim=True) <= ALIKE * values.mean(-2, keepdim=True).abs()
    size = torch.linalg.vector_norm(mean, dim=-1)
    of_channels = torch.linalg.vector_norm(mean * alike, dim=-1)
    return n * u / 2 * torch.where(spread <= ALIKE * size, size, of_channels)


def root_of_squares(*errors: Tensor) -> Tensor:
    """The size of a sum of independent errors with mean zero."""
    return reduce(torch.hypot, errors)


def storage_error(y: Tensor, computed: torch.dtype) -> Tensor:
    """Largest error of each number from being stored in the dtype of y after being computed in ``computed``.

    ``|fl(y) - y| <= u |y|``, or half of the smallest subnormal number. The result is float64 and has the shape of y.
    """
    if torch.promote_types(y.dtype, computed) == y.dtype:
        return torch.zeros_like(y, dtype=torch.float64)
    info = torch.finfo(y.dtype)
    return y.double().abs() * (info.eps / 2) + info.smallest_normal * info.eps / 2
