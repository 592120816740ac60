"""What is known about a conditional branch around given features: its rounding, and bounds that follow from linearity.

For fixed x_2 the branch is linear in x_1. So its inverse is a series of powers, and the trace of a power is a product.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...ops import (
    Roundoff,
    ball_rounding,
    cast_rounding,
    drift,
    max_token_norm,
    pixel_tokens,
    root_of_squares,
    spectral_norm_bound,
    sum_rounding,
    transposed,
    truncation_bound,
)
from ..certificate import Assessment
from .linear import grouped_linear

if TYPE_CHECKING:
    from .conditional import ConditionalAttention2d, SizedWeights

POWERS = 8  # powers of W in the bound of the inverse
TERMS = 64  # terms of a bound that are summed one by one


def assess(block: 'ConditionalAttention2d', x: Tensor, weights: 'SizedWeights', u: Roundoff) -> Assessment:
    """The branch as a function of x_1, at features in float64, with the weights of the forward pass.

    u is the unit roundoff of sums and w that of casts, S is the spread of the values W x_1 under P, there are n keys
    with weights of at most p, and R(n, D) is :func:`~mmseg_invattn.ops.sum_rounding`. The rounding error of g is the
    root of the sum of the squares of

        b        relative, r = u (4 + log_2(C) |b|^2 / 2)                             dt = (G_1 + G_2) r
        scores   dt of the mode, and that of b                                       S dt e^dt
        exp, P   rounding, and its cast        S (u (4 + log n) + w) min(1, 2 sqrt(p))
        x_1      its cast                      w |W| (|P x_1| + min(1, 2 sqrt(p)) max|x_1|)
        sum      over n keys of P_ij x_1j      max|W_:k| R(n, C) (|P x_1| + sqrt(p) max|x_1|)
        W        of P x_1                      max|W_:k| R(C, C) |P x_1|

        cast     of W, P x_1, W P x_1, and of all P_ij if they are equal         (Q(W) + w |W|) |P x_1|

    plus (u + w) |g| for the sum x_1 + g; Q is :func:`~mmseg_invattn.ops.cast_rounding`.
    """
    x1, x2 = x.chunk(2, 1)
    attention, mode = block.attention, block.attention.mode
    b_B1NC = weights.norm.bounded(pixel_tokens(x2))
    tokens_BGNC = block.heads.tokens(x1)
    v_BHNC = grouped_linear(tokens_BGNC, weights.weight)
    v_BHNC = v_BHNC - v_BHNC.mean(2, keepdim=True)
    mix = attention.mixer(weights.scores, b_B1NC, weights.size, weights.beta)
    width = tokens_BGNC.shape[-1]
    values = tokens_BGNC.expand(-1, len(weights.weight), -1, -1), v_BHNC.square().sum(-1, keepdim=True)
    mean_BHNC, square_BHN1 = mix(torch.cat(values, -1)).split([width, 1], -1)
    g = transposed(block.heads.merge(mean_BHNC, weights.weight)).reshape(x1.shape)
    spread, mixed = square_BHN1[..., 0].clamp(min=0).sqrt(), torch.linalg.vector_norm(mean_BHNC, dim=-1)
    largest = torch.linalg.vector_norm(tokens_BGNC, dim=-1).amax(-1, keepdim=True)
    radius = torch.linalg.vector_norm(b_B1NC, dim=-1).amax(-1)
    bounds = mode.bounds(weights.scores, spectral_norm_bound, radius)
    n = attention.keys(weights.size, weights.beta)[0]
    share = attention.largest_weight(weights.scores, radius, weights.size, weights.beta)[..., None]
    r = ball_rounding(b_B1NC.shape[-1], radius, u.sums)
    moved = attention.score_rounding(
        weights.scores, b_B1NC, radius, torch.zeros_like(radius), weights.size, weights.beta, u
    )
    moved = moved + ((bounds.query_slope + bounds.key_slope) * r)[..., None]
    column = torch.linalg.vector_norm(weights.weight, dim=-2).amax(-1)[:, None]
    averaged = (2 * share.sqrt()).clamp(max=1)
    errors = [
        spread * moved * moved.exp(),
        spread * (u.sums * (4 + math.log(n)) + u.casts) * averaged,
        column * sum_rounding(n, width, u.sums) * (mixed + share.sqrt() * largest),
        column * drift(tokens_BGNC, mean_BHNC, spread / column, n, u.sums),
        column * sum_rounding(width, width, u.sums) * mixed,
    ]
    if u.casts:
        norm = spectral_norm_bound(weights.weight)
        errors += [
            u.casts * norm[:, None] * (mixed + averaged * largest),
            (cast_rounding(weights.weight, norm, u.casts) + u.casts * norm)[:, None] * mixed,
        ]
    errors = root_of_squares(*errors)
    if u.casts:  # underflow in W, in x_1 and in their product
        errors = errors + u.underflow * width * (1 + largest)
    rho = block.heads.total(errors.amax(-1)).amax(1) + u.any * max_token_norm(g, block.groups)
    rate = inverse_rate(block, weights.weight)
    # The branch is linear in x_1, so its rounding error grows in proportion to x_1, also within the reach.
    size = max_token_norm(x1, block.groups)
    relative = torch.where(size > 0, rho / size, 0)
    return Assessment(g, lambda reach: torch.full_like(reach, rate), lambda reach, _: rho + relative * reach)


def series_error(
    block: 'ConditionalAttention2d', x: Tensor, sized: 'SizedWeights', lipschitz: Tensor, n_terms: int
) -> Tensor:
    """``sum_(k > n) |tr W^k| tr P^k / k`` if each group has one W.

    This holds because the trace of a Kronecker product is the product of the traces.
    P^k is row-stochastic, so ``tr P^k = sum_i sum_j (P^(k-1))_ij P_ji <= sum_i max_j P_ji <= N p`` for k > 1, with
    p the largest weight.
    """
    weight, n = sized.weight, x.shape[2] * x.shape[3]
    if block.groups != len(weight) or n_terms < 1:
        return truncation_bound(block.channels / 2 * n, lipschitz, n_terms)
    b_B1NC = sized.norm.bounded(pixel_tokens(x.chunk(2, 1)[1]))
    radius = torch.linalg.vector_norm(b_B1NC, dim=-1).amax(-1)
    share_BH = block.attention.largest_weight(sized.scores, radius, sized.size, sized.beta)
    power, norm, left_out = torch.linalg.matrix_power(weight, n_terms + 1), spectral_norm_bound(weight), 0.0
    for k in range(n_terms + 1, n_terms + 1 + TERMS):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1).abs()
        left_out = left_out + (trace + k * weight.shape[-1] ** 2 * 2.0**-52 * norm**k) / k  # plus rounding
        power = power @ weight
    rest = truncation_bound(weight.shape[-1], norm, n_terms + TERMS)
    return (n * share_BH * (left_out + rest)).sum(-1)


def inverse_rate(block: 'ConditionalAttention2d', weight_HCC: Tensor) -> float:
    """L with ``|(1 + g)^-1| <= 1 / (1 - L)``, float64.

    The inverse is ``sum_k (-W P)^k``. If each group has one W for all pixels, ``|(W P)^k| <= |W^k|``, and
    ``T = sum_k |W^k|`` obeys ``T <= sum_(k < n) |W^k| + |W^n| T``.
    """
    if block.groups != len(weight_HCC):
        return float(block.total(spectral_norm_bound(weight_HCC)).max())
    power, norms = weight_HCC, []
    for _ in range(POWERS):
        norms.append(spectral_norm_bound(power))
        power = power @ weight_HCC
    total = (1 + sum(norms[:-1])) / (1 - norms[-1])
    return float((1 - 1 / total).max())
