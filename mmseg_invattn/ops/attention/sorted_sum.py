"""``sum_j f(t_i + p_j) x_j`` for all i in O((N + M) log M).

The p_j are sorted and summed once; for each t_i the place where f changes its formula is looked up.

    f(s) = max(s, 0) + e exp(min(s, 0)) + d:     ReLU e = d = 0,     ELU e = 1, d = -1,     ELU + 1  e = 1, d = 0

With p ascending and k_i the number of p_j <= -t_i,

    sum_j f'(t_i + p_j) x_j = S[k] + e e^(t_i + p_{k-1}) E[k-1],           S[k] = sum_{j >= k} x_j
    sum_j f(t_i + p_j) x_j  = R[k] + (t_i + p_k) S[k] + e (S[k] + e^(t_i + p_{k-1}) E[k-1]) + d S[0]
    R[k] = sum_{j >= k} (p_j - p_k) x_j = sum_{m > k} (p_m - p_{m-1}) S[m],     E[k] = sum_{j <= k} e^(p_j - p_k) x_j

Exponentials are taken only of sums and differences that are <= 0; for x >= 0 the terms of R and of S are >= 0, so
nothing cancels. Everything is float64, which costs little: there is only one addition for each number read.

Shape suffixes: R rows (batch and heads), F columns, N places t, M points p, K chunks of L points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16  # points summed relative to the same exponent
# Larger gaps between neighbours are cut to this: points beyond such a gap have a weight of at most e^-50 = 2e-22, less
# than rounding for up to a million points. Exponents inside a chunk then stay within +-CHUNK * GAP / 2 = +-400, which
# float64 can represent.
GAP = 50.0


def count_below(points_RM: Tensor, places_RN: Tensor, order_RN: Tensor) -> Tensor:
    """``k_i = #{j: p_j <= -t_i}``, shape (R, N), for ascending points; ``order`` sorts the places.

    Sorted places are looked up several times faster than unsorted ones, because neighbours read the same memory.
    """
    found_RN = torch.searchsorted(points_RM, -places_RN.gather(1, order_RN), right=True)
    return torch.empty_like(found_RN).scatter_(1, order_RN, found_RN)


def decayed_sums(x_RFM: Tensor, gaps_RM: Tensor) -> Tensor:
    """``E[k] = sum_{j <= k} e^(p_j - p_k) x_j``, shape (R, F, M); ``gaps[k] = p_k - p_{k-1} >= 0``, gaps[0] unused.

    Plain prefix sums relative to the middle of each chunk of 16; then the sums of the chunks are summed in the same
    way.
    """
    points = gaps_RM.shape[1]
    chunks = -(-points // CHUNK)
    padding = chunks * CHUNK - points
    height_RKL = F.pad(gaps_RM, (0, padding)).clamp_(max=GAP).unflatten(1, (chunks, CHUNK)).cumsum(2)
    total_RK = height_RKL[..., -1]
    height_RKL = height_RKL - total_RK[..., None] / 2
    # torch.cat, because F.pad fills its whole output before it copies.
    x_RFKL = torch.cat([x_RFM, x_RFM.new_zeros(*x_RFM.shape[:2], padding)], 2).unflatten(2, (chunks, CHUNK))
    sums_RFKL = x_RFKL.mul_(height_RKL.exp()[:, None]).cumsum_(3)
    if chunks > 1:
        half_R1K = (total_RK / -2).exp()[:, None]
        before_RFK = decayed_sums(sums_RFKL[..., -1] * half_R1K, total_RK) * half_R1K.roll(-1, 2)
        sums_RFKL[:, :, 1:] += before_RFK[:, :, :-1, None]
    return sums_RFKL.mul_(height_RKL.neg_().exp_()[:, None]).flatten(2)[..., :points]


def sorted_sums(
    x_RFM: Tensor,
    points_RM: Tensor,
    places_RN: Tensor,
    below_RN: Tensor,
    exponential: bool,
    offset: float = 0.0,
    with_values: bool = True,
) -> tuple[Tensor, Tensor]:
    """Both sums defined at the top of this file, in float64.

    Args:
        x_RFM: x, in the order of the points.
        points_RM: p, ascending.
        places_RN: t, in any order.
        below_RN: k, from :func:`count_below`.
        exponential: True for e = 1, False for e = 0.
        offset: d.
        with_values: False skips the first sum and returns an empty tensor for it.

    Returns:
        ``(sum_j f(t_i + p_j) x_j, sum_j f'(t_i + p_j) x_j)``, each of shape (R, F, N).
    """
    points = points_RM.shape[1]
    # A sum over j >= k has M - k terms and is stored at index M - k - 1.
    suffix_RFM, down_RM = x_RFM.flip(2).cumsum_(2), points_RM.flip(1)
    above_RN = points - below_RN
    some_R1N = (above_RN > 0).to(x_RFM.dtype)[:, None]
    first_RN = (above_RN - 1).clamp_(min=0)
    index_RFN = first_RN[:, None].expand(-1, x_RFM.shape[1], -1)
    slopes_RFN = suffix_RFM.gather(2, index_RFN)
    values_RFN = slopes_RFN.new_empty(0)
    if with_values:
        # R is 0 at index 0, so places with no point above them need no mask here.
        steps_RFM = suffix_RFM[..., :-1] * (down_RM[:, :-1] - down_RM[:, 1:])[:, None]
        ramps_RFM = torch.cat([torch.zeros_like(suffix_RFM[..., :1]), steps_RFM], 2).cumsum_(2)
        del steps_RFM
        values_RFN = ramps_RFM.gather(2, index_RFN)
        del ramps_RFM
        values_RFN.addcmul_(slopes_RFN, (places_RN + down_RM.gather(1, first_RN))[:, None] * some_R1N)
        if offset:
            values_RFN.add_(suffix_RFM[..., -1:], alpha=offset)
    del suffix_RFM
    slopes_RFN.mul_(some_R1N)
    if exponential:
        last_RN = (below_RN - 1).clamp_(min=0)
        weight_RN = (places_RN + points_RM.gather(1, last_RN)).clamp_(max=0).exp_() * (below_RN > 0)
        sums_RFM = decayed_sums(x_RFM, F.pad(points_RM[:, 1:] - points_RM[:, :-1], (1, 0)))
        slopes_RFN.addcmul_(sums_RFM.gather(2, last_RN[:, None].expand_as(index_RFN)), weight_RN[:, None])
        if with_values:
            values_RFN.add_(slopes_RFN)
    return values_RFN, slopes_RFN
