"""Centre and spread of the attention of a head, and how close it is to the tap of a convolution.

Shape suffixes: B images, G heads, N queries, M keys, D offsets, 2 the coordinates (row, column).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class HeadStatistics(NamedTuple):
    """One entry for each head, means over images and queries.

    Attributes:
        centre: (G, 2), mean offset in pixels.
        spread: (G,), root mean square distance from the mean offset of the same query, in pixels.
        entropy: (G,), in nats; it is the log of the number of pixels if all weights are equal.
        tap: (G, 2), the offset with the most weight.
        tap_weight: (G,), mean weight of that offset over the queries for which it lies on the map. It is 1 if the head
            is the shift by ``tap``, and so the tap of a convolution, and 1 / M if all weights are equal.
    """

    centre: Tensor
    spread: Tensor
    entropy: Tensor
    tap: Tensor
    tap_weight: Tensor


@torch.no_grad()
def head_statistics(p_BGNM: Tensor, query_N2: Tensor, key_M2: Tensor) -> HeadStatistics:
    """Statistics of attention probabilities.

    Args:
        p_BGNM: rows that sum to 1.
        query_N2: coordinates of the queries, in pixels of the keys; whole numbers.
        key_M2: coordinates of the keys.
    """
    p_BGNM = p_BGNM.double()
    offset_NM2 = (key_M2 - query_N2[:, None]).double()
    mean_BGN2 = torch.einsum('bgnm,nmk->bgnk', p_BGNM, offset_NM2)
    square_BGN = torch.einsum('bgnm,nm->bgn', p_BGNM, offset_NM2.square().sum(-1))
    variance_BGN = (square_BGN - mean_BGN2.square().sum(-1)).clamp(min=0)
    entropy_BGN = -torch.special.xlogy(p_BGNM, p_BGNM).sum(-1)
    offsets_D2, which_NM = offset_NM2.flatten(0, 1).unique(dim=0, return_inverse=True)
    mean_GNM = p_BGNM.mean(0)
    total_GD = mean_GNM.new_zeros(len(mean_GNM), len(offsets_D2)).index_add_(1, which_NM.flatten(), mean_GNM.flatten(1))
    count_D = torch.bincount(which_NM.flatten(), minlength=len(offsets_D2))
    # an offset that lies on the map for only few queries cannot be the tap
    share_GD = (total_GD / count_D).masked_fill(2 * count_D < count_D.max(), -1)
    tap_weight_G, tap_G = share_GD.max(1)
    return HeadStatistics(
        mean_BGN2.mean((0, 2)),
        variance_BGN.sqrt().mean((0, 2)),
        entropy_BGN.mean((0, 2)),
        offsets_D2[tap_G],
        tap_weight_G,
    )
