"""A priori bound of the rounding error of attention around given features.

It is the error of ``W_O sum_j P_ij W_V b_j`` for every head and pixel, in the norm of a token. u is the unit roundoff
of sums and w that of casts (0 without casts), S and S_V are the spreads of the values ``W_O W_V b_j`` and ``W_V b_j``
under P, there are n keys with weights of at most p, R(n, D) is :func:`~mmseg_invattn.ops.sum_rounding` and Q(W) is
:func:`~mmseg_invattn.ops.cast_rounding`. The parts of the error are:

    v        W_V b; errors of different pixels are independent, so the mean reduces them to sqrt(p), times 2
                                                             w_O R(C, E) max|W_V:k| max|b| min(1, 2 sqrt(p))
    cast     of W_V, the same error for all pixels, so that the mean does not reduce it       w_O Q(W_V) max|b|
    scores   dt of the mode; an error that all keys share has no effect, the rest changes P   S dt e^dt
    exp      u (4 + |t - max t|), and the cast of P_ij; independent between keys
                                                             S (u (4 + log n) + w) min(1, 2 sqrt(p))
    sum      over n keys of P_ij v_j; a partial sum differs from its share of the whole by at most half of S_V
                                                         w_O R(n, E) (|P v| + min(S_V / 2, sqrt(p) max|v|))
    W_O      of P v                                                                      R(E, C) w_O |P v|
    cast     of W_O, P v and the result, and of all P_ij if they are equal              (Q(W_O) + w |W_O|) |P v|

If the values are nearly equal, as on a constant map, ``w_O n u / 2 |P v|`` is added (:func:`~mmseg_invattn.ops.drift`).
Here ``w_O = max_k |W_O:k|``, because errors of different channels of v are independent as well. The result is the root
of the sum of the squares of all lines (:mod:`~mmseg_invattn.ops.rounding`). The log n is there because the mean of
``max t - t`` under P is at most the entropy of P.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ...ops import Roundoff, cast_rounding, drift, product_rounding, root_of_squares, spectral_norm_bound, sum_rounding
from .attention import Attention
from .linear import grouped_linear
from .local_bound import Moments


def attention_rounding(
    attention: Attention,
    scores: Any,
    value_HEC: Tensor,
    out_HCE: Tensor,
    tokens_BGNC: Tensor,
    moments: Moments,
    reach_BG: Tensor,
    size: tuple[int, int],
    beta: Any,
    u: Roundoff,
) -> Tensor:
    """Bound of the rounding of each head, the largest over the pixels, (B, H), float64.

    Args:
        attention: with row-stochastic weights.
        scores: weights of its mode, float64.
        value_HEC: W_V.
        out_HCE: W_O.
        tokens_BGNC: b, float64.
        moments: of the values ``W_O W_V b`` at these tokens.
        reach_BG: the bound holds for all tokens within this distance of the given ones.
        size: (H, W).
        beta: from ``attention.logits``.
        u: the rounding errors of the forward pass.
    """
    value, out, effective = map(spectral_norm_bound, (value_HEC, out_HCE, out_HCE @ value_HEC))
    column = torch.linalg.vector_norm(out_HCE, dim=-2).amax(-1)
    radius_BG = torch.linalg.vector_norm(tokens_BGNC, dim=-1).amax(-1) + reach_BG
    n, share = attention.keys(size, beta)[0], attention.largest_weight(scores, radius_BG, size, beta)
    averaged = (2 * share.sqrt()).clamp(max=1)[..., None]
    far = (value * reach_BG)[..., None]
    mixed = torch.linalg.vector_norm(moments.values, dim=-1) + far
    v_BHNE = grouped_linear(tokens_BGNC, value_HEC)
    largest = torch.linalg.vector_norm(v_BHNE, dim=-1).amax(-1, keepdim=True) + far
    spread = moments.spread + (effective * 2 * reach_BG)[..., None]
    apart = (moments.of_values / 2 + far).minimum(share.sqrt()[..., None] * largest)
    column, width = column[:, None], value_HEC.shape[-2]
    moved = attention.score_rounding(scores, tokens_BGNC, radius_BG, reach_BG, size, beta, u)
    errors = [
        column * product_rounding(value_HEC, u.sums)[:, None] * radius_BG[..., None] * averaged,
        spread * moved * moved.exp(),
        spread * (u.sums * (4 + math.log(n)) + u.casts) * averaged,
        column * sum_rounding(n, width, u.sums) * (mixed + apart),
        column * drift(v_BHNE, moments.values, moments.of_values, n, u.sums),
        column * sum_rounding(width, out_HCE.shape[-2], u.sums) * mixed,
    ]
    if u.casts:
        of_value, of_out = cast_rounding(value_HEC, value, u.casts), cast_rounding(out_HCE, out, u.casts)
        errors += [column * of_value[:, None] * radius_BG[..., None], (of_out + u.casts * out)[:, None] * mixed]
    underflow = u.underflow * value_HEC.shape[-1] * (out * (value + 1) + 1)
    return root_of_squares(*errors).amax(-1) + underflow
