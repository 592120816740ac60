"""An upper bound (not a measurement) of the Lipschitz constant of attention around given features.

    m_i = sum_j P_ij v_j,    v = W_V x,    P_ij = w_ij / sum_j w_ij

A bound for all tokens in a ball has to combine the steepest possible scores with the largest possible spread of values.
At given features both are known. Let the tokens change by dx, each by at most d. Then t_ij changes by ``<kappa_j, dx_i>
+ <alpha_ij, dx_j>`` (the mode's ``score_gradients``), log w_ij by that times a number from 0 to 1, and because
``sum_j P_ij (v_j - m_i) = 0``

    dm_i = sum_j P_ij W_V dx_j + sum_j P_ij dlog w_ij (v_j - m_i)

    |dm_i| <= (|W_V| + (K_i + A_i) S_i) d,     S_i^2 = sum_j P_ij |v_j - m_i|^2,    A_i^2 = sum_j P_ij |alpha_ij|^2

by the Cauchy-Schwarz inequality. For a softmax, where that number is 1, K_i is the spread of kappa_j under P around its
mean, because a shift of all kappa_j of a row has no effect. For other kernels the number differs from 1/2 by at most
1/2, and K_i is half of that spread plus half of the spread around 0. All these are moments under P: a single evaluation
of the attention, with v and the squares as values, gives all of them. If keys are pooled, the squares are averaged in
the same way, which makes no moment smaller.

Within the reach rho of x, each log w changes by at most ``E = rho (max |kappa| + max |alpha|) + g rho^2``, so P changes
by at most a factor e^2E, while v, kappa and alpha change by at most ``|W_V| rho``, ``g rho`` and ``g rho``, where g is
the larger slope of the mode's scores for tokens of norm 1. Hence at every point within the reach

    |dm_i| <= (|W_V| + e^2E (K_i + A_i + 2 g rho) (S_i + |W_V| rho)) d
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention import Attention
from .linear import grouped_linear

ROUNDINGS = 64  # bound of the relative rounding error of a second moment, in eps


class Moments(NamedTuple):
    """Moments of ``v = W_V x`` and ``w = W_O v`` under P, for every pixel and head, float64.

    Attributes:
        values: mean of v, ``sum_j P_ij v_j``, shape (B, H, N, E).
        mean: m, mean of w, shape (B, H, N, C).
        of_values: spread of v, shape (B, H, N).
        spread: S, spread of w, shape (B, H, N).
        gradients: K + A, shape (B, H, N).
        steepest: ``max |kappa| + max |alpha|``, shape (B, H, 1).
    """

    values: Tensor
    mean: Tensor
    of_values: Tensor
    spread: Tensor
    gradients: Tensor
    steepest: Tensor


def attention_moments(
    attention: Attention,
    scores: Any,
    tokens_BGNC: Tensor,
    size: tuple[int, int],
    beta: Any,
    value_HEC: Tensor,
    out_HCE: Tensor,
    narrow: bool = False,
) -> Moments:
    """Moments at the tokens.

    Args:
        attention: with row-stochastic weights.
        scores: weights of its mode.
        tokens_BGNC: x; if there is one group, all heads share it.
        size: (H, W).
        beta: from ``attention.logits``.
        value_HEC: W_V.
        out_HCE: W_O.
        narrow: do not compute the mean of kappa under P, which needs C more values. K_i is then the spread around the
            mean over all pixels, which is just as good if the weights of a row are not concentrated.
    """
    mode = attention.mode
    kappa, alpha, tied = mode.score_gradients(scores, tokens_BGNC)
    # A shift of v has no effect on its spread, nor a shift of kappa on a softmax. Shift both to their means, because
    # smaller numbers have smaller rounding errors.
    centre_k = kappa.mean(2, keepdim=True)
    about_0, kappa = kappa, kappa - centre_k
    v = grouped_linear(tokens_BGNC, value_HEC)
    v = v - v.mean(2, keepdim=True)
    squares = _square(grouped_linear(v, out_HCE)), _square(v), _square(kappa)
    parts = [v, *squares, _square(about_0), *([] if narrow and not tied else [kappa])]
    mixed = attention.mixer(scores, tokens_BGNC, size, beta)(torch.cat(parts, -1)).double()
    mean_v, square_w, square_v, square_k, square_0, *mean_k = mixed.split([part.shape[-1] for part in parts], -1)
    up = 1 + ROUNDINGS * torch.finfo(v.dtype).eps
    square_k = square_k * up
    of_values = (square_v * up - _square(mean_v)).clamp(min=0).sqrt()
    spread = (square_w * up - _square(grouped_linear(mean_v, out_HCE.double()))).clamp(min=0).sqrt()
    of_query = (square_k - (_square(mean_k[0]) if mean_k else 0)).clamp(min=0).sqrt()
    if not mode.softmax:
        of_query = (of_query + (square_0 * up).sqrt()) / 2
    alpha = (alpha - centre_k if tied else alpha).double()
    of_key = _square(alpha)
    if tied:
        of_key = of_key - 2 * (alpha * mean_k[0]).sum(-1, keepdim=True) + square_k  # alpha_ij = alpha_i - kappa_j
    of_key = of_key.clamp(min=0).sqrt()
    steepest = _largest(alpha) + _largest(kappa if mode.softmax else about_0) * (1 + tied)
    values = mean_v + grouped_linear(tokens_BGNC, value_HEC).double().mean(2, keepdim=True)
    mean = grouped_linear(values, out_HCE.double())
    return Moments(values, mean, of_values[..., 0], spread[..., 0], (of_query + of_key)[..., 0], steepest)


def local_bound(moments: Moments, value_norm_H: Tensor, slope_BH: Tensor, reach_BH: Tensor) -> Tensor:
    """Bound of ``|dm_i| / d`` at all features within a reach of the tokens, for every pixel and head.

    Args:
        moments: at the tokens.
        value_norm_H: ``|W_V|``.
        slope_BH: g.
        reach_BH: rho.

    Returns:
        float64 tensor (B, H, N); infinite where the reach is too long for a useful bound.
    """
    rho, g = reach_BH.double()[..., None], slope_BH.double()[..., None]
    value_norm = value_norm_H.double()[:, None]
    change = torch.exp(2 * (rho * moments.steepest + g * rho.square()))
    spread = moments.gradients + 2 * g * rho
    return (value_norm + change * spread * (moments.spread + value_norm * rho)).nan_to_num(torch.inf)


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _largest(x_BHNC: Tensor) -> Tensor:
    """Largest norm of a pixel, (B, H, 1)."""
    return torch.linalg.vector_norm(x_BHNC.double(), dim=-1).amax(-1, keepdim=True)
