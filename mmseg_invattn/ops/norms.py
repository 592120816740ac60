"""The norm in which every certificate holds."""

from torch import Tensor


def max_token_norm(x_BCHW: Tensor, groups: int = 1) -> Tensor:
    """The mixed norm ``|X|_inf2 = max_i |x_i|_2`` of each sample: the largest channel norm over the pixels.

    Row-stochastic mixing of the pixels has norm exactly 1 in it, whatever their number.

    Args:
        x_BCHW: feature maps, shape (B, C, H, W).
        groups: with G > 1 each of the G channel groups of a pixel is a token of its own.

    Returns:
        Tensor of shape (B,).
    """
    return x_BCHW.unflatten(1, (groups, -1)).norm(dim=2).flatten(1).amax(1)


def max_channel_norm(x_BCHW: Tensor) -> Tensor:
    """``max_c |x_c|_2 / sqrt(H W)`` of each sample: the largest root mean square over the channels.

    The norm of channel attention, whose tokens are the channels; it is at most :func:`max_token_norm`.

    Returns:
        Tensor of shape (B,).
    """
    return x_BCHW.flatten(2).norm(dim=2).amax(1) / (x_BCHW.shape[2] * x_BCHW.shape[3]) ** 0.5
