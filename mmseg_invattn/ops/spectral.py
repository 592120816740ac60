"""Upper bounds of spectral norms by Gram iteration (Delattre et al., https://arxiv.org/abs/2305.16173).

``G_0 = W^T W``, ``G_{k+1} = G_k^T G_k``:  ``|W|_2 <= |G_k|_F^(1 / 2^(k+1)) <= rank^(1 / 2^(k+2)) |W|_2``.

It is an upper bound for every k and needs only matrix products, so a certificate can be based on it. A power iteration
gives a lower bound, on which no certificate can be based.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .second_derivative import recorded, transformed

# Up to this size, products in float64 take no longer than the start of the operation, and the range of float64 makes
# most rescaling unnecessary.
SMALL = 64


def gram_norm(*factors: Tensor) -> Tensor:
    """Differentiable upper bound of the spectral norm, rounding included.

    It is within a factor ``rank^(1/256)`` of the norm: 2.5% at rank 512.

    Args:
        factors: matrices of shape (..., M, K), or two tensors (..., M, J) and (..., J, K), for the norm of their
            product. Half precision is computed in float32 or higher.

    Returns:
        Tensor of shape (...,), at least ``|W|_2`` of the matrices as stored, or ``|L R|_2`` of the exact product. Zero
        matrices give the smallest positive number of the dtype, so that dividing by the result is safe.
    """
    return _gram_norm(factors, 6)


@torch.no_grad()
def spectral_norm_bound(*factors: Tensor) -> Tensor:
    """Upper bound of the spectral norm for a certificate: float64, tight to 0.2% at rank 512, rounded up.

    Args:
        factors: as for :func:`gram_norm`, of any floating dtype.

    Returns:
        float64 tensor of shape (...,). Zero matrices give 0.
    """
    factors = tuple(factor.double() for factor in factors)
    zero = [(factor == 0).all(-1).all(-1) for factor in factors]
    norm = _gram_norm(factors, 10)
    return norm.masked_fill(zero[0] if len(zero) == 1 else zero[0] | zero[1], 0)


def _gram_norm(factors: tuple[Tensor, ...], n_iter: int) -> Tensor:
    shape = factors[0].shape[:-2]
    factors = tuple(factor.reshape(-1, *factor.shape[-2:]) for factor in factors)
    plain = transformed() or not recorded(*factors)
    norm = _bound(factors, n_iter).norm if plain else _GramNorm.apply(n_iter, *factors)
    return norm.reshape(shape)


class _Bound(NamedTuple):
    """The bound of B products ``P = L R``, or of B matrices, in the dtype of the computation.

    Attributes:
        norm: shape (B, 1, 1), in the dtype of the factors or float32.
        parts: L and R, each divided by a scale, so that the squares of its numbers neither overflow nor underflow.
        scales: the scales of the parts, shape (B, 1, 1), or None for 1.
        product: P, computed from the parts.
        grams: the ``G_k``, each up to a factor, of P or of its transpose, whichever has fewer columns.
    """

    norm: Tensor
    parts: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]
    product: Tensor
    grams: list[Tensor]


def _bound(factors: tuple[Tensor, ...], n_iter: int) -> _Bound:
    rank = min(size for factor in factors for size in factor.shape[1:])
    cols = min(factors[0].shape[1], factors[-1].shape[2])
    given = torch.promote_types(factors[0].dtype, torch.float32)
    dtype = torch.float64 if cols <= SMALL else given
    parts = tuple(factor.to(dtype) for factor in factors)
    # the squares of float32 numbers are normal float64 numbers
    scales = tuple(_largest(part) if dtype == given else None for part in parts)
    parts = tuple(part if scale is None else part / scale for part, scale in zip(parts, scales, strict=True))
    product = parts[0] if len(parts) == 1 else parts[0].bmm(parts[1])
    n_iter = n_iter if rank > 1 else -1  # at rank 1 the spectral norm is the Frobenius norm
    norm, grams = _iterate(_upright(product), n_iter)

    # Rounding. A product of n terms has an error of at most n eps |G|_F^2 in the Frobenius norm, which is at most
    # n^1.5 eps times the next |G|_F. Because of the roots 1 / 2^(k+1), the errors of all steps add up to no more than
    # that. The norm is stored as a product of roots, each with a relative error of less than 4 eps.
    rows, eps = max(product.shape[1:]), torch.finfo(dtype).eps
    relative = 2 * eps * ((rows + 2) * cols**0.5 + 4 * (len(grams) + 1))
    if dtype != given:
        relative += torch.finfo(given).eps
    if len(parts) == 2:  # ill-conditioned factors may cancel: |fl(L R) - L R|_F <= n eps |L|_F |R|_F
        left, right = (_frobenius(part.detach()) for part in parts)
        norm = torch.addcmul(norm, left, right, value=parts[0].shape[2] * eps)
    for scale in scales:
        norm = norm if scale is None else norm * scale
    norm = (norm * (1 + relative)).clamp(min=torch.finfo(given).tiny)
    return _Bound(norm.to(given), parts, scales, product, grams)


def _iterate(matrix: Tensor, n_iter: int) -> tuple[Tensor, list[Tensor]]:
    """``|G_n|_F^(1 / 2^(n+1))``, shape (B, 1, 1), and the ``G_k``, each up to a factor."""
    gram, grams, steps, norm = matrix, [], _steps(matrix), None
    for k in range(n_iter + 1):
        if k % steps == 0:
            scale = _frobenius(gram).clamp(min=torch.finfo(gram.dtype).tiny)
            gram = gram / scale
            norm = scale if norm is None else norm * scale ** (2.0**-k)
        gram = gram.mT.bmm(gram)
        grams.append(gram)
    last = _frobenius(gram)
    return last if norm is None else norm * last ** (2.0 ** -(n_iter + 1)), grams


def _steps(matrix: Tensor) -> int:
    """How many products may follow each other without rescaling.

    From a matrix of Frobenius norm 1, the k-th product has a Frobenius norm of at least ``C^(-2^(k-1))``; this has to
    stay far above the smallest number of the dtype.
    """
    exponent = 900 if matrix.dtype == torch.float64 else 90
    return int(math.log2(exponent / math.log2(max(matrix.shape[-1], 2))))


class _GramNorm(torch.autograd.Function):
    """The norm is ``(sum_i sigma_i^(2m))^(1/2m)`` with ``m = 2^(n+1)``. Its gradient is a multiple of D:

        D = W (W^T W)^(m-1) = W G_n ... G_1 G_0,        d norm / dW = norm D / <D, W>

    The factor follows because the norm is homogeneous of degree 1 in W. This takes half the products that
    differentiating the iteration takes.
    """

    @staticmethod
    def forward(ctx, n_iter: int, *factors: Tensor) -> Tensor:
        bound = _bound(factors, n_iter)
        ctx.n_iter, ctx.count, ctx.scaled = n_iter, len(factors), bound.scales[0] is not None
        scales = bound.scales if ctx.scaled else ()
        ctx.save_for_backward(*factors, *bound.parts, *scales, bound.norm, bound.product, *bound.grams)
        return bound.norm

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, saved = ctx.count, ctx.saved_tensors
        factors = saved[:n]
        if torch.is_grad_enabled():  # a second derivative is wanted: the saved tensors have no graph
            bound = _bound(factors, ctx.n_iter)
        else:
            parts, rest = saved[n : 2 * n], saved[2 * n :]
            scales, rest = (rest[:n], rest[n:]) if ctx.scaled else ((None,) * n, rest)
            bound = _Bound(rest[0], parts, scales, rest[1], list(rest[2:]))
        product, parts = bound.product, bound.parts
        upright = along = _upright(product)
        rescaled = len(bound.grams) > _steps(upright)  # otherwise the product of all of them does not underflow
        for gram in reversed(bound.grams):
            if rescaled:
                along = along / _frobenius(along).detach().clamp(min=torch.finfo(along.dtype).tiny)
            along = along.bmm(gram)
        inner = (along * upright).sum((-2, -1), keepdim=True).clamp(min=torch.finfo(along.dtype).tiny)
        along = along if product.shape[1] >= product.shape[2] else along.mT
        along = along * (grad * bound.norm / inner)
        gradients = [along] if n == 1 else [along.bmm(parts[1].mT), parts[0].mT.bmm(along)]
        for i, scale in enumerate(bound.scales):
            gradients[i] = (gradients[i] if scale is None else gradients[i] / scale).to(factors[i].dtype)
        return None, *gradients


def _upright(product: Tensor) -> Tensor:
    return product if product.shape[1] >= product.shape[2] else product.mT


def _frobenius(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)


def _largest(matrix: Tensor) -> Tensor:
    """The largest absolute value in each matrix, as a constant without gradient, shape (B, 1, 1)."""
    return matrix.detach().abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
