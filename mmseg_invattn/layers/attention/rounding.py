"""How attention rounds around given features, a priori.

Of ``W_O sum_j P_ij W_V b_j``, with u the unit roundoff of sums and w that of casts (0 where there are none), S and S_V
the spreads of the values ``W_O W_V b_j`` and ``W_V b_j`` under P, n keys of which none has a weight above p, R(n, D) of
:func:`~mmseg_invattn.ops.sum_rounding` and Q(W) of :func:`~mmseg_invattn.ops.cast_rounding`: for every head and pixel,
in the norm of a token,

    v        W_V b; errors of different pixels are independent, so sqrt(p) of them is left, times 2
                                                             w_O R(C, E) max|W_V:k| max|b| min(1, 2 sqrt(p))
    cast     of W_V alike for all pixels, so that no mean makes it smaller                    w_O Q(W_V) max|b|
    scores   dt of the mode; what all keys have in common does not count, the rest moves P    S dt e^dt
    exp      u (4 + |t - max t|), and the cast of P_ij, for each key, independent of the others'
                                                             S (u (4 + log n) + w) min(1, 2 sqrt(p))
    sum      over n keys of P_ij v_j; a part of it is off from its share of the whole by half of S_V at most
                                                         w_O R(n, E) (|P v| + min(S_V / 2, sqrt(p) max|v|))
    W_O      of P v                                                                      R(E, C) w_O |P v|
    cast     of W_O, P v and the result, and of all P_ij where they are alike           (Q(W_O) + w |W_O|) |P v|

and where values are alike, as on a constant map, ``w_O n u / 2 |P v|`` (:func:`~mmseg_invattn.ops.drift`),
with ``w_O = max_k |W_O:k|``, since errors of different channels of v are independent as well. The squares of all lines
are added up (:mod:`~mmseg_invattn.ops.rounding`). Under P the mean of ``max t - t`` is at most the entropy of P, so
log n.
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
    """Bound of the rounding of each head, the largest of a pixel, (B, H), float64.

    Args:
        attention: with row-stochastic weights.
        scores: weights of its mode, float64.
        value_HEC: W_V.
        out_HCE: W_O.
        tokens_BGNC: b, float64.
        moments: of the values ``W_O W_V b`` there.
        reach_BG: how far others may be from them.
        size: (H, W).
        beta: of ``attention.logits``.
        u: what the forward pass rounds with.
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
