"""Form ``none``: the ordinary non-local block ``y = x + W_O sum_j P_ij W_V x_j``, as mmcv's ``NonLocal2d`` computes it.

The baseline: it has no inverse and no certificate. mmcv's names: theta = query, phi = key, g = value, conv_out = out.
"""
import torch
from torch import Tensor, nn

from ..base import check_features
from ..linear import GroupedLinear


class Ordinary(nn.Module):
    """Non-local block; heads share the tokens and their outputs add up, as in multi-head attention.

    Args:
        mode: class of the attention.
        channels: C of the feature map.
        reduction: channels over the size of queries, keys and values of all heads together.
        num_heads: heads.
        contraction: of no effect here, every form is built with the same arguments.
        sharpness: likewise.
    """

    def __init__(self, mode: type[nn.Module], channels: int, reduction: int, num_heads: int, contraction: float,
                 sharpness: float):
        super().__init__()
        inter = channels // reduction // num_heads
        self.channels = channels
        self.attention = mode(channels, inter, num_heads, bias=True)
        self.value = GroupedLinear(channels, inter, num_heads)
        self.out = GroupedLinear(inter, channels, num_heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        # mmcv's start: small projections, and an output of zero so that the block begins as the identity.
        for module in (*self.attention.children(), self.value):
            nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        x_B1NC = x.flatten(2).mT[:, None]
        o_BGNE = self.attention.attend(self.attention.weights(), x_B1NC, x_B1NC, self.value(x_B1NC))
        g_BNC = self.out(o_BGNE).sum(1) + self.bias
        return x + g_BNC.mT.reshape(x.shape).to(x.dtype)
