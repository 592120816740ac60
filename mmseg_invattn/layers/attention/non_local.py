"""Form ``none``: the ordinary non-local block ``y = x + W_O sum_j P_ij W_V x_j``, as mmcv's ``NonLocal2d`` computes it.

It is the baseline and has no inverse and no certificate. mmcv's names: theta = query, phi = key, g = value,
conv_out = out, concat_project = join. As in mmcv, the scores of dot product and concatenation are divided by the number
of keys, not by their sum.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...ops import differentiable_copies, full_precision, local_lipschitz
from ..checks import check_features
from ..parameters import compute_dtype
from .options import AttentionOptions, read_options
from .ordinary_branch import OrdinaryBranch


class NonLocalAttention2d(nn.Module):
    """The non-local block, (B, C, H, W) -> (B, C, H, W); it starts as the identity.

    Args:
        in_channels: C.
        attention: the options of :class:`~.options.AttentionOptions`: mode, reduction, num_heads, bias, position (only
            if the mode is a softmax), position_size, key_pooling.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument breaks its rule.
    """

    def __init__(self, in_channels: int, **attention: Any):
        super().__init__()
        options = read_options(type(self), AttentionOptions, attention)
        options.check_channels(in_channels)
        options.check_softmax()
        self.channels = in_channels
        self.branch = OrdinaryBranch(in_channels, options, as_mmcv=True)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        return x + self.branch(x).to(x.dtype)

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the branch's Lipschitz constant at x, shape (B,)."""
        check_features(x, self.channels)
        with torch.inference_mode(False), full_precision(x.device):
            x = differentiable_copies(x).to(compute_dtype(self, x))
            return local_lipschitz(self.branch, x, lambda t: t.flatten(2).mT)

    def extra_repr(self) -> str:
        return f'{self.channels}, mode={self.branch.attention.options.mode!r}'
