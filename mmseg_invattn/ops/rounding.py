"""How far a computed number is from the exact one: a priori, from the sizes of what is added up.

u = eps / 2 is the unit roundoff: an operation is off by a factor 1 + d, ``|d| <= u``. Of a handful of operations the
worst case counts, u each. Of many, the d are taken as independent with mean zero (Higham and Mary 2019,
https://doi.org/10.1137/18M1226312). A sum of n terms t_k makes the errors ``d_k s_k`` with its partial sums s_k, and
where the terms come in no particular order ``sum_k |s_k|^2`` is about ``n (sum t^2 / 6 + s_n^2 / 3)``, so the root mean
square of the error is, with ``|d| <= u`` spread evenly,

    u sqrt(n) sqrt(sum t^2 / 18 + s_n^2 / 9)  <=  u sqrt(n) sqrt(sum t^2 + s_n^2) / 3

A vector of D such errors keeps nearer to its root mean square the larger D is: :func:`sum_rounding` allows it
``(1 + 6 / sqrt(D))`` times that. Of a matrix product all rows together have ``sum t^2 = sum_k |W_:k|^2 x_k^2``, at most
``max_k |W_:k|^2 |x|^2`` (:func:`product_rounding`).
"""

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

ALIKE = 2.0**-5  # relative spread up to which numbers are taken to round alike, as those of a constant map do


# Numbers below the smallest normal one may be taken for 0: what that makes of a sum, for each of its terms.
UNDERFLOW = torch.finfo(torch.float32).tiny


class Roundoff(NamedTuple):
    """What a forward pass rounds with.

    Attributes:
        sums: u of the dtype that is computed in.
        casts: u of the dtype to which the factors and results of matrix products are cast; 0 where they are not.
        underflow: what may be lost of a number whatever its size.
    """

    sums: float
    casts: float
    underflow: float

    @classmethod
    def of(cls, dtype: torch.dtype, autocast: bool = False) -> 'Roundoff':
        """Of a dtype, and of the float64 evaluation that it is held against.

        Args:
            autocast: it may have run under autocast or with TF32, whichever: bfloat16 is the coarsest of them, and
                float16 the one that loses small numbers. float64 is never cast.
        """
        u = unit_roundoff(dtype) + unit_roundoff(torch.float64)
        if autocast and dtype != torch.float64:
            smallest = torch.finfo(torch.float16).smallest_normal * unit_roundoff(torch.float16)
            return cls(u, unit_roundoff(torch.bfloat16), smallest)
        return cls(u, 0.0, UNDERFLOW)

    @property
    def any(self) -> float:
        """Of a number that is computed, and then cast where numbers are."""
        return self.sums + self.casts


EXACT = Roundoff(0.0, 0.0, 0.0)


def unit_roundoff(dtype: torch.dtype) -> float:
    """u of a dtype."""
    return torch.finfo(dtype).eps / 2


def ball_rounding(channels: int, radius: Tensor, u: float) -> Tensor:
    """Relative rounding of ``b = x / sqrt(a^2 + |x|^2)``: ``u (4 + log_2(C + 1) |b|^2 / 2)``.

    A difference, a root and two products, and a sum of C squares in pairs, which counts as far as |x| does beside a.

    Args:
        channels: C.
        radius: largest |b|.
        u: of the dtype that is computed in.
    """
    return u * (4 + math.log2(channels + 1) * radius.square() / 2)


def sum_rounding(n: int, dimensions: int, u: float) -> float:
    """Rounding of sums of n terms, the numbers of a vector of so many dimensions, relative to ``sqrt(sum t^2)``.

    Args:
        n: terms of each sum.
        dimensions: D.
        u: of the dtype that is computed in.
    """
    return u * n**0.5 * (1 + 6 / dimensions**0.5) / 3


def product_rounding(weight: Tensor, u: float) -> Tensor:
    """Rounding of ``W x`` for ``|x| <= 1``.

    Args:
        weight: (..., M, K).
        u: of the dtype that is computed in.

    Returns:
        Tensor of shape (...,).
    """
    rows, terms = weight.shape[-2:]
    return sum_rounding(terms, rows, u) * torch.linalg.vector_norm(weight, dim=-2).amax(-1)


def factor_rounding(dimensions: int, u: float) -> float:
    """Rounding of sums of products whose factors were cast, relative to ``sqrt(sum t^2)`` as in :func:`sum_rounding`.

    Each factor is off by at most u, so a product by ``u sqrt(2 / 3)`` in root mean square.
    """
    return u * (2 / 3) ** 0.5 * (1 + 6 / dimensions**0.5)


def cast_rounding(weight: Tensor, norm: Tensor, u: float) -> Tensor:
    """What casting W, x and ``W x`` changes in ``W x`` for ``|x| <= 1``: of the result ``u |W|``.

    Args:
        weight: (..., M, K).
        norm: bound of its spectral norm, (...,).
        u: of the dtype that is cast to.

    Returns:
        Tensor of shape (...,).
    """
    column = torch.linalg.vector_norm(weight, dim=-2).amax(-1)
    return torch.hypot(factor_rounding(weight.shape[-2], u) * column, u * norm)


def drift(values: Tensor, mean: Tensor, spread: Tensor, n: int, u: float) -> Tensor:
    """Rounding of sums of n terms that are alike, whose errors are alike too and add up: ``n u / 2`` of the sum.

    Args:
        values: (..., N, E), what is summed.
        mean: (..., M, E), the sums, with weights that add up to 1.
        spread: (..., M), of the values about them.

    Returns:
        Tensor of shape (..., M): 0 where the values vary.
    """
    alike = values.std(-2, correction=0, keepdim=True) <= ALIKE * values.mean(-2, keepdim=True).abs()
    size = torch.linalg.vector_norm(mean, dim=-1)
    of_channels = torch.linalg.vector_norm(mean * alike, dim=-1)
    return n * u / 2 * torch.where(spread <= ALIKE * size, size, of_channels)


def root_of_squares(*errors: Tensor) -> Tensor:
    """What independent errors of mean zero are together."""
    return reduce(torch.hypot, errors)


def storage_error(y: Tensor, computed: torch.dtype) -> Tensor:
    """What storing numbers in their dtype changed in each at most, where they were computed in ``computed``; float64.

    ``|fl(y) - y| <= u |y|``, or half of the smallest subnormal number.
    """
    if torch.promote_types(y.dtype, computed) == y.dtype:
        return torch.zeros_like(y, dtype=torch.float64)
    info = torch.finfo(y.dtype)
    return y.double().abs() * (info.eps / 2) + info.smallest_normal * info.eps / 2
