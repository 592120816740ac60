"""How steep attention is around given features: an upper bound, not a measurement.

    m_i = sum_j P_ij v_j,    v = W_V x,    P_ij = w_ij / sum_j w_ij

A bound for all tokens of a ball takes the steepest scores together with the widest values. At given features both are
known. Let the tokens move by dx, none by more than d. Then t_ij moves by ``<kappa_j, dx_i> + <alpha_ij, dx_j>`` (the
mode's ``score_gradients``), log w_ij by that times a number from 0 to 1, and as ``sum_j P_ij (v_j - m_i) = 0``

    dm_i = sum_j P_ij W_V dx_j + sum_j P_ij dlog w_ij (v_j - m_i)

    |dm_i| <= (|W_V| + (K_i + A_i) S_i) d,     S_i^2 = sum_j P_ij |v_j - m_i|^2,    A_i^2 = sum_j P_ij |alpha_ij|^2

by Cauchy and Schwarz. K_i is the spread of kappa_j about its mean for a softmax, where that number is 1 and what a
whole row has in common is not seen. For other kernels the number differs from 1/2 by at most 1/2, and K_i is half the
spread about the mean and half that about 0. These are moments under P: one more evaluation of the attention, with
``(v, |v|^2, kappa, |kappa|^2)`` for values, gives them all. Where keys are pooled, squares are averaged with them,
which makes no moment smaller.

Within the reach rho of x no log w changes by more than ``E = rho (max |kappa| + max |alpha|) + g rho^2``, so P by no
more than the factor e^2E, while v, kappa and alpha move by at most ``|W_V| rho``, ``g rho`` and ``g rho``, with g the
larger slope of the mode's scores for tokens of norm 1. Hence at every point there

    |dm_i| <= (|W_V| + e^2E (K_i + A_i + 2 g rho) (S_i + |W_V| rho)) d
"""

from typing import Any

import torch
from torch import Tensor

from .attention import Attention

ROUNDINGS = 64  # of a second moment, in eps


def local_bound(
    attention: Attention,
    scores: Any,
    tokens_B1NC: Tensor,
    v_BGNE: Tensor,
    size: tuple[int, int],
    value_norm_G: Tensor,
    slope_BG: Tensor,
    reach_B: Tensor,
) -> Tensor:
    """Bound of ``|dm_i| / d`` at all features within a reach of the tokens, for every pixel and head.

    Args:
        attention: with row-stochastic weights.
        scores: weights of its mode.
        tokens_B1NC: x.
        v_BGNE: W_V x.
        size: (H, W).
        value_norm_G: ``|W_V|``.
        slope_BG: g.
        reach_B: rho.

    Returns:
        float64 tensor (B, G, N); infinite where the reach is too long for the bound to be of use.
    """
    mode = attention.mode
    kappa, alpha, tied = mode.score_gradients(scores, tokens_B1NC)
    eps = torch.finfo(v_BGNE.dtype).eps
    # P does not see a shift of v, nor a softmax one of kappa: small numbers have small rounding errors
    v = v_BGNE - v_BGNE.mean(2, keepdim=True)
    if mode.softmax:
        centre = kappa.mean(2, keepdim=True)
        kappa, alpha = kappa - centre, alpha - centre if tied else alpha
    values = (v, _square(v), kappa, _square(kappa))
    mix = attention.mixer(scores, tokens_B1NC, size, attention.logits(size, tokens_B1NC))
    moments = mix(torch.cat(values, -1)).double()
    mean_v, square_v, mean_k, square_k = moments.split([value.shape[-1] for value in values], -1)
    square_v, square_k = (square * (1 + ROUNDINGS * eps) for square in (square_v, square_k))
    S = (square_v - _square(mean_v)).clamp(min=0).sqrt()
    K = (square_k - _square(mean_k)).clamp(min=0).sqrt()
    if not mode.softmax:
        K = (K + square_k.sqrt()) / 2
    A = _square(alpha.double())
    if tied:  # alpha_ij = alpha_i - kappa_j
        A = A - 2 * (alpha * mean_k).sum(-1, keepdim=True) + square_k
    A = A.clamp(min=0).sqrt()
    rho, g = reach_B.double()[:, None, None], slope_BG.double()[..., None]
    value_norm = value_norm_G.double()[:, None]
    steepest = _largest(alpha) + _largest(kappa) * (1 + tied)
    change = torch.exp(2 * (rho * steepest + g * rho.square()))
    spread = (K + A)[..., 0] + 2 * g * rho
    return (value_norm + change * spread * (S[..., 0] + value_norm * rho)).nan_to_num(torch.inf)


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _largest(x_BGNC: Tensor) -> Tensor:
    """Largest norm of a pixel, (B, G, 1)."""
    return torch.linalg.vector_norm(x_BGNC.double(), dim=-1).amax(-1, keepdim=True)
