"""The norms in which certificates hold, computed in float64 so that nothing underflows or overflows.

The squares of float32 numbers, and of those with lower precision, are normal float64 numbers. float64 features are
first divided by their largest number.
"""

import torch
from torch import Tensor


def max_token_norm(x_BCHW: Tensor, groups: int = 1) -> Tensor:
    """The mixed norm ``|X|_inf2 = max_i |x_i|_2`` of each sample: the largest channel norm over the pixels.

    In this norm, row-stochastic mixing of the pixels has norm exactly 1, for any number of pixels.

    Args:
        x_BCHW: feature maps, shape (B, C, H, W).
        groups: with G > 1, each of the G channel groups of a pixel is a separate token.

    Returns:
        float64 tensor of shape (B,).
    """
    return _largest_norm(x_BCHW.unflatten(1, (groups, -1)), 2)


def max_channel_norm(x_BCHW: Tensor) -> Tensor:
    """``max_c |x_c|_2 / sqrt(H W)`` of each sample: the largest root mean square over the channels.

    It is used for channel attention, whose tokens are the channels, and is at most :func:`max_token_norm`.

    Returns:
        float64 tensor of shape (B,).
    """
    return _largest_norm(x_BCHW.flatten(2), 2) / (x_BCHW.shape[2] * x_BCHW.shape[3]) ** 0.5


def _largest_norm(x: Tensor, dim: int) -> Tensor:
    """The largest norm along one dimension, for each sample: (B, ...) -> (B,)."""
    if x.dtype != torch.float64:
        return torch.linalg.vector_norm(x, dim=dim, dtype=torch.float64).flatten(1).amax(1)
    largest = x.detach().flatten(1).abs().amax(1).clamp(min=torch.finfo(x.dtype).tiny)
    scaled = x / largest.view(-1, *[1] * (x.dim() - 1))
    return scaled.norm(dim=dim).flatten(1).amax(1) * largest
