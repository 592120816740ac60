"""Upper bounds of spectral norms by Gram iteration (Delattre et al., https://arxiv.org/abs/2305.16173).

``G_0 = W^T W``, ``G_{k+1} = G_k^T G_k``:  ``|W|_2 <= |G_k|_F^(1 / 2^(k+1)) <= rank^(1 / 2^(k+2)) |W|_2``.

It is an upper bound at every k, made of matrix products, so it may carry a certificate. A power iteration is a lower
bound and never may.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .second_derivative import recorded, transformed

# Up to this size the products of float64 take no longer than starting them, and their range makes most steps of
# rescaling needless.
SMALL = 64


def gram_norm(*factors: Tensor) -> Tensor:
    """Differentiable upper bound of the spectral norm, within ``rank^(1/256)`` of it, 2.5 % at rank 512, rounding
    included.

    Args:
        factors: matrices of shape (..., M, K), or two of them, (..., M, J) and (..., J, K), whose product is meant.
            Half precision is computed in float32 or higher.

    Returns:
        Tensor of shape (...,), at least ``|W|_2`` of the matrices as stored, or ``|L R|_2`` of the exact product. Zero
        matrices give the smallest positive number of the dtype, so that dividing by the result is safe.
    """
    return _gram_norm(factors, 6)


@torch.no_grad()
def spectral_norm_bound(*factors: Tensor) -> Tensor:
    """Upper bound of the spectral norm for a certificate: float64, tight to 0.2 % at rank 512, rounded up.

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
    """Of B products ``P = L R``, or of B matrices, in the dtype that was computed in.

    Attributes:
        norm: shape (B, 1, 1), in the dtype of the factors or float32.
        parts: L and R, each in some scale, so that the squares of its numbers neither overflow nor vanish.
        scales: of these, shape (B, 1, 1), or None where it is 1.
        product: P of the parts.
        grams: the ``G_k``, each in some scale, of P or of its transpose, whichever has fewer columns.
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
    n_iter = n_iter if rank > 1 else -1  # the norm of a vector is that of Frobenius
    norm, grams = _iterate(_upright(product), n_iter)

    # Rounding. A product of n terms is off by at most n eps |G|_F^2 in the Frobenius norm, which is at most
    # n^1.5 eps of the next |G|_F; the root 1 / 2^(k+1) makes the errors of all steps add up to no more than that.
    # The norm is carried as a product of roots, each of them off by less than 4 eps.
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
    """``|G_n|_F^(1 / 2^(n+1))``, shape (B, 1, 1), and the ``G_k``, each in some scale."""
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
    """How many products follow each other without rescaling: from Frobenius norm 1 the k-th of them has one of
    ``C^(-2^(k-1))`` or more, and that stays far above what vanishes."""
    exponent = 900 if matrix.dtype == torch.float64 else 90
    return int(math.log2(exponent / math.log2(max(matrix.shape[-1], 2))))


class _GramNorm(torch.autograd.Function):
    """The norm is ``(sum_i sigma_i^(2m))^(1/2m)`` with ``m = 2^(n+1)``, of degree 1 in W, so with D along its gradient

        D = W (W^T W)^(m-1) = W G_n ... G_1 G_0,        d norm / dW = norm D / <D, W>

    in half the products that differentiating the iteration takes.
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
        if torch.is_grad_enabled():  # to be differentiated again: what was saved hangs on no graph
            bound = _bound(factors, ctx.n_iter)
        else:
            parts, rest = saved[n : 2 * n], saved[2 * n :]
            scales, rest = (rest[:n], rest[n:]) if ctx.scaled else ((None,) * n, rest)
            bound = _Bound(rest[0], parts, scales, rest[1], list(rest[2:]))
        product, parts = bound.product, bound.parts
        upright = along = _upright(product)
        rescaled = len(bound.grams) > _steps(upright)  # else all of them together do not vanish either
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
    """The largest number in size of each matrix, a constant, shape (B, 1, 1)."""
    return matrix.detach().abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
