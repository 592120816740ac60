"""How steep attention is around given features: an upper bound, not a measurement.

    m_i = sum_j P_ij v_j,    v = W_V x,    P_ij = w_ij / sum_j w_ij

A bound for all tokens of a ball takes the steepest scores together with the widest values. At given features both are
known. Let the tokens move by dx, none by more than d. Then t_ij moves by ``<kappa_j, dx_i> + <alpha_ij, dx_j>`` (the
mode's ``score_gradients``), log w_ij by that times a number from 0 to 1, and as ``sum_j P_ij (v_j - m_i) = 0``

    dm_i = sum_j P_ij W_V dx_j + sum_j P_ij dlog w_ij (v_j - m_i)

    |dm_i| <= (|W_V| + (K_i + A_i) S_i) d,     S_i^2 = sum_j P_ij |v_j - m_i|^2,    A_i^2 = sum_j P_ij |alpha_ij|^2

by Cauchy and Schwarz. For a softmax, where that number is 1, K_i is the spread of kappa_j under P about any vector,
since what a whole row has in common is not seen: about its mean. For other kernels the number differs from 1/2 by at
most 1/2, and K_i is half that spread and half the one about 0. These are moments under P: one evaluation
of the attention with v and squares for values gives them all. Where keys are pooled, squares are averaged with them,
which makes no moment smaller.

Within the reach rho of x no log w changes by more than ``E = rho (max |kappa| + max |alpha|) + g rho^2``, so P by no
more than the factor e^2E, while v, kappa and alpha move by at most ``|W_V| rho``, ``g rho`` and ``g rho``, with g the
larger slope of the mode's scores for tokens of norm 1. Hence at every point there

    |dm_i| <= (|W_V| + e^2E (K_i + A_i + 2 g rho) (S_i + |W_V| rho)) d

Only the moments are sums over all pairs of pixels, and they may be evaluated in float32. What is summed is made in
float64, divided by its largest number, and rounded once. With scores off by dt at most the weights that were used are
off by a factor e^2dt from those of P, and with them the moments of squares; sums of n numbers of one sign are off by n
eps, relative, and so are their normalisers. The mean m~ that was computed need not be that of P: no vector has a
smaller mean square distance to the values than their mean has. So with M~ the moment of squares that was computed

    S^2 <= e^2dt (M~ (1 + 2 (64 + 2 n) eps) - |m~|^2)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import cast_all
from .attention import Attention
from .linear import grouped_linear

ROUNDINGS = 64  # of a second moment, in eps, beside those of its sum


class Moments(NamedTuple):
    """Moments under P of every pixel and head, float64, of ``v = W_V x`` and ``w = W_O v``.

    Attributes:
        tokens: v, shape (B, H, N, E).
        values: ``sum_j P_ij v_j``, shape (B, H, N, E).
        mean: m, that of w, shape (B, H, N, C).
        of_values: spread of v, shape (B, H, N).
        spread: S, that of w, likewise.
        gradients: K + A, likewise.
        steepest: ``max |kappa| + max |alpha|``, shape (B, H, 1).
    """

    tokens: Tensor
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
    dtype: torch.dtype = torch.float64,
    moved: Tensor | float = 0.0,
) -> Moments:
    """Moments at the tokens.

    Args:
        attention: with row-stochastic weights.
        scores: weights of its mode.
        tokens_BGNC: x; one group of them serves all heads.
        size: (H, W).
        beta: of ``attention.logits``.
        value_HEC: W_V.
        out_HCE: W_O.
        narrow: leave out the mean of kappa under P, which takes C more values: K_i is the spread about the mean of all
            pixels then, as good where the weights of a row are not concentrated.
        dtype: in which the sums over the pixels are evaluated; all else is float64.
        moved: bound dt of what rounding changes in the scores of a query then, (B, H, N).
    """
    mode = attention.mode
    kappa, alpha, tied = mode.score_gradients(scores, tokens_BGNC)
    # P does not see a shift of v, nor a softmax one of kappa: small numbers have small rounding errors
    centre_k = kappa.mean(2, keepdim=True)
    about_0, kappa = kappa, kappa - centre_k
    v = grouped_linear(tokens_BGNC, value_HEC)
    centre_v = v.mean(2, keepdim=True)
    about = v - centre_v
    vectors = dict(v=about, kappa=kappa) if tied or not narrow else dict(v=about)
    squares = dict(w=_square(grouped_linear(about, out_HCE)), v=_square(about), kappa=_square(kappa))
    if not mode.softmax:
        squares['about_0'] = _square(about_0)
    parts = torch.cat([*vectors.values(), *squares.values()], -1).double()
    mixed, above = averages(attention, scores, tokens_BGNC, size, beta, parts, len(squares), dtype)
    means = dict(zip(vectors, mixed.split([part.shape[-1] for part in vectors.values()], -1), strict=True))
    above = dict(zip(squares, above.split(1, -1), strict=True))
    off = rounding_of_averages(tokens_BGNC.shape[2], dtype)
    mean_v, square_v, square_k = means['v'], above['v'], above['kappa']
    mean_k = means.get('kappa', torch.zeros_like(square_k))  # any vector serves, 0 where the mean is left out
    mean_w = grouped_linear(mean_v, out_HCE.double())
    # W_O of what is wrong with the mean of v may be large beside w
    slip = off * torch.linalg.matrix_norm(out_HCE.double())[:, None, None] * (square_v * _square(mean_w)).sqrt()
    of_values = (square_v - _square(mean_v)).clamp(min=0).sqrt()
    spread = (above['w'] - _square(mean_w) + 2 * slip).clamp(min=0).sqrt()
    of_query = (square_k - _square(mean_k)).clamp(min=0).sqrt()
    if not mode.softmax:
        of_query = (of_query + above['about_0'].sqrt()) / 2
    alpha = (alpha - centre_k if tied else alpha).double()
    of_key = _square(alpha)
    if tied:  # alpha_ij = alpha_i - kappa_j
        of_key = of_key - 2 * (alpha * mean_k).sum(-1, keepdim=True) + square_k + 2 * off * (of_key * square_k).sqrt()
    of_key = of_key.clamp(min=0).sqrt()
    steepest = _largest(alpha) + _largest(kappa if mode.softmax else about_0) * (1 + tied)
    values = mean_v + centre_v.double()
    mean = mean_w + grouped_linear(centre_v, out_HCE).double()
    change = torch.exp(2 * torch.as_tensor(moved))
    of_values, spread, gradients = (change * root[..., 0] for root in (of_values, spread, of_query + of_key))
    return Moments(v, values, mean, of_values, spread, gradients, steepest)


def rounding_of_averages(n: int, dtype: torch.dtype) -> float:
    """Of an average of n numbers of one sign under P, relative: of the sum, of the normaliser, and of what they are."""
    return (ROUNDINGS + 2 * n) * torch.finfo(dtype).eps


class Averages(NamedTuple):
    """Under P of every pixel and head, float64.

    Attributes:
        mean: of the vectors, as computed, (B, H, N, E).
        above: of the squares, bounds: with twice the room that one average needs, and none for what rounding changed in
            the scores, (B, H, N, S).
    """

    mean: Tensor
    above: Tensor


def averages(
    attention: Attention,
    scores: Any,
    tokens_BGNC: Tensor,
    size: tuple[int, int],
    beta: Any,
    values_BHNE: Tensor,
    n_squares: int,
    dtype: torch.dtype,
) -> Averages:
    """Averages of float64 values, evaluated in the dtype; neither large nor small values leave its range.

    Args:
        attention, scores, tokens_BGNC, size, beta, dtype: of :func:`attention_moments`.
        values_BHNE: float64, vectors and behind them squares.
        n_squares: S.
    """
    largest = torch.linalg.vector_norm(values_BHNE, torch.inf, 2, keepdim=True).clamp(
        min=torch.finfo(torch.float64).tiny
    )
    mix = attention.mixer(cast_all(scores, dtype), tokens_BGNC.to(dtype), size, cast_all(beta, dtype))
    mixed, n = mix((values_BHNE / largest).to(dtype)) * largest, values_BHNE.shape[2]
    mean, square = mixed.split([mixed.shape[-1] - n_squares, n_squares], -1)
    above = square * (1 + 2 * rounding_of_averages(n, dtype)) + n * torch.finfo(dtype).tiny * largest[..., -n_squares:]
    return Averages(mean, above)


def local_bound(moments: Moments, value_norm_H: Tensor, slope_BH: Tensor, reach_BH: Tensor) -> Tensor:
    """Bound of ``|dm_i| / d`` at all features within a reach of the tokens, for every pixel and head.

    Args:
        moments: at the tokens.
        value_norm_H: ``|W_V|``.
        slope_BH: g.
        reach_BH: rho.

    Returns:
        float64 tensor (B, H, N); infinite where the reach is too long for the bound to be of use.
    """
    rho, g = reach_BH.double()[..., None], slope_BH.double()[..., None]
    value_norm = value_norm_H.double()[:, None]
    change = torch.exp(2 * (rho * moments.steepest + g * rho.square()))
    spread = moments.gradients + 2 * g * rho
    return (value_norm + change * spread * (moments.spread + value_norm * rho)).nan_to_num(torch.inf)


def _square(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()  # without a copy of x


def _largest(x_BHNC: Tensor) -> Tensor:
    """Largest norm of a pixel, (B, H, 1)."""
    return torch.linalg.vector_norm(x_BHNC.double(), dim=-1).amax(-1, keepdim=True)
