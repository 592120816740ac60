"""log|det| of ``x -> x + sum_h W_h (x) P_h x``, attention whose weights do not depend on x.

For one P and one W the powers factorise, ``tr((W (x) P)^k) = tr(W^k) tr(P^k)``, so

    log det(I + W (x) P) = sum_k (-1)^(k+1) / k tr(W^k) tr(P^k)

tr(W^k) is exact and tr(P^k) is estimated by Hutchinson's method, ``E v^T P^k v`` over random signs v. The series
converges for every P because |W| < 1. Truncated after n terms, its error is at most ``C N sum_(k>n) |W|^k / k``. For
heads whose outputs are added, the powers do not factorise; they are applied to random signs of shape (C, N).

The gradient needs one application of P and one of W, so its memory does not depend on the number of terms:

    d log det = E v^T dP u + tr(G^T dW),    u = sum_k (-1)^(k+1) tr(W^k) P^(k-1) v,
                                            G^T = sum_k (-1)^(k+1) tr(P^k) W^(k-1)

and for heads whose outputs are added, with ``M = sum_h W_h (x) P_h``:  ``E v^T dM u``,
``u = sum_k (-1)^(k+1) M^(k-1) v``.

Shape suffixes: B batch, H heads, N pixels, C channels of a head, S samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _signs(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype) * 2 - 1


def _identity(size: int, like: Tensor) -> Tensor:
    """Created on the device itself, because a copy from the CPU would wait for the device."""
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    return value + surrogate - surrogate.detach()


def factorised_log_det(
    mix: Callable[[Tensor], Tensor],
    weight_HCC: Tensor,
    shape: tuple[int, int, int],
    coefficients: Sequence[float],
    n_samples: int,
) -> Tensor:
    """For heads that each have their own channel group: the sum of their log-determinants, shape (B,).

    Args:
        mix: values (B, H, N, E) -> ``P_h v``.
        weight_HCC: W_h.
        shape: (B, H, N).
        coefficients: c_k of the terms of the series: 1, or for roulette 1 divided by the probability of the term.
        n_samples: random probes; if N or more, the traces of P are computed exactly instead.
    """
    batch, heads, pixels = shape
    if n_samples >= pixels:
        probes = _identity(pixels, weight_HCC).expand(batch, heads, -1, -1)
        samples = 1
    else:
        probes, samples = _signs((batch, heads, pixels, n_samples), weight_HCC), n_samples
    with torch.no_grad():
        total = weight_HCC.new_zeros(batch)
        mixed, power = probes, _identity(weight_HCC.shape[1], weight_HCC).expand_as(weight_HCC)
        u, slope_BHCC = torch.zeros_like(probes), weight_HCC.new_zeros(batch, *weight_HCC.shape)
        for k, c in enumerate(coefficients, 1):
            last_mixed, last_power = mixed, power
            mixed, power = mix(mixed), power @ weight_HCC
            trace_p = (probes * mixed).sum((2, 3)) / samples
            trace_w = power.diagonal(dim1=-2, dim2=-1).sum(-1)
            sign = (-1) ** (k + 1) * c
            total = total + sign / k * (trace_p * trace_w).sum(1)
            u = u + sign * trace_w[:, None, None] * last_mixed
            slope_BHCC = slope_BHCC + sign * trace_p[..., None, None] * last_power.mT
    if not torch.is_grad_enabled():
        return total
    surrogate = (probes * mix(u)).sum((1, 2, 3)) / samples + (slope_BHCC * weight_HCC).sum((1, 2, 3))
    return _with_gradient_of(total, surrogate)


def joint_log_det(
    mix: Callable[[Tensor], Tensor],
    weight_HCC: Tensor,
    shape: tuple[int, int, int],
    coefficients: Sequence[float],
    n_samples: int,
) -> Tensor:
    """For heads that share all channels, shape (B,). Exact if ``n_samples`` is C N or more.

    Arguments as in :func:`factorised_log_det`.
    """
    batch, heads, pixels = shape
    channels = weight_HCC.shape[1]
    dim = channels * pixels
    if n_samples >= dim:
        probes = _identity(dim, weight_HCC).reshape(dim, pixels, channels).expand(batch, -1, -1, -1)
        samples = 1
    else:
        probes, samples = _signs((batch, n_samples, pixels, channels), weight_HCC), n_samples
    count = probes.shape[1]

    def apply(v_BSNC: Tensor) -> Tensor:
        side_by_side = v_BSNC.transpose(1, 2).flatten(2)[:, None].expand(-1, heads, -1, -1)  # (B, H, N, S C)
        out_BHNSC = mix(side_by_side).unflatten(3, (count, channels))
        return torch.einsum('bhnsc,hdc->bsnd', out_BHNSC, weight_HCC)

    with torch.no_grad():
        total = weight_HCC.new_zeros(batch)
        mixed_BSNC, u = probes, torch.zeros_like(probes)
        for k, c in enumerate(coefficients, 1):
            sign = (-1) ** (k + 1) * c
            u = u + sign * mixed_BSNC
            mixed_BSNC = apply(mixed_BSNC)
            total = total + sign / k * (probes * mixed_BSNC).sum((1, 2, 3)) / samples
    if not torch.is_grad_enabled():
        return total
    return _with_gradient_of(total, (probes * apply(u)).sum((1, 2, 3)) / samples)
