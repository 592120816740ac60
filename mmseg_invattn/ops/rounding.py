"""How far a computed number is from the exact one: a priori, from the sizes of what is added up.

u = eps / 2 is the unit roundoff: an operation is off by a factor 1 + d, ``|d| <= u``. Of a handful of operations the
worst case counts, u each. Of many, the d are taken as independent with mean zero (Higham and Mary 2019,
https://doi.org/10.1137/18M1226312). A sum of n terms then makes the errors ``d_k s_k`` with its partial sums s_k, of
root mean square

    u / sqrt(3) sqrt(sum_k |s_k|^2)

and where n terms of squares t_1^2, ..., t_n^2 come in no particular order, ``sum_k |s_k|^2`` is about
``n (sum t^2 / 6 + s_n^2 / 3)``. All rows of ``W x`` together have ``sum t^2 = sum_k |W_:k|^2 x_k^2``, at most
``max_k |W_:k|^2 |x|^2``, so

    |fl(W x) - W x|_2 <= u sqrt(n) (max_k |W_:k| |x| + |W x|)                                     (product_rounding)

which leaves a factor of 2.4 and more for the largest of many errors and for sums whose order is not random.
"""

import torch
from torch import Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    """u of a dtype."""
    return torch.finfo(dtype).eps / 2


def product_rounding(weight: Tensor, u: float) -> Tensor:
    """Rounding of ``W x`` for ``|x| <= 1``, as far as it comes from its terms.

    Args:
        weight: (..., M, K).
        u: of the dtype that is computed in.

    Returns:
        Tensor of shape (...,).
    """
    return u * weight.shape[-1] ** 0.5 * torch.linalg.vector_norm(weight, dim=-2).amax(-1)


def root_of_squares(*errors: Tensor) -> Tensor:
    """What independent errors of mean zero are together."""
    return sum(error.square() for error in errors).sqrt()


def storage_error(y: Tensor, computed: torch.dtype) -> Tensor:
    """What storing numbers in their dtype changed in each at most, where they were computed in ``computed``; float64.

    ``|fl(y) - y| <= u |y|``, or half of the smallest subnormal number.
    """
    if torch.promote_types(y.dtype, computed) == y.dtype:
        return torch.zeros_like(y, dtype=torch.float64)
    info = torch.finfo(y.dtype)
    return y.double().abs() * (info.eps / 2) + info.smallest_normal * info.eps / 2
