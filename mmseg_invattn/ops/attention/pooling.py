"""Pooled keys: ``k = Q x`` with Q row-stochastic and fixed, so the certificate is the same as without pooling.

Shape suffixes: B batch, G heads, N = H W pixels, M pooled keys, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_tokens(x_BGNC: Tensor, size: tuple[int, int], pooling: int | Sequence[int] | None) -> Tensor:
    """Means over parts of the feature map, shape (B, G, M, C).

    Args:
        x_BGNC: tokens of a feature map, row by row.
        size: (H, W) of the feature map.
        pooling: a stride r: means over blocks of r x r pixels (smaller at the border), M = ceil(H/r) ceil(W/r); or
            pyramid bins such as (1, 3, 6, 8): adaptive means over 1 x 1, 3 x 3 ... parts, M = 1 + 9 + 36 + 64 for
            every size; or None: the tokens themselves.
    """
    if pooling is None:
        return x_BGNC
    batch, groups, _, channels = x_BGNC.shape
    maps = x_BGNC.mT.reshape(batch, groups * channels, *size)
    if isinstance(pooling, int):
        # count_include_pad=False: a block cut by the border is a mean over its pixels, so Q stays row-stochastic.
        pooled = [F.avg_pool2d(maps, pooling, ceil_mode=True, count_include_pad=False)]
    else:
        pooled = [F.adaptive_avg_pool2d(maps, bins) for bins in pooling]
    flat = torch.cat([p.flatten(2) for p in pooled], -1)
    return flat.reshape(batch, groups, channels, -1).mT
