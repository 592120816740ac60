"""Orthogonal 1x1 convolution: mixes channel groups and keeps every token's norm."""
import torch
from torch import Tensor, nn


class OrthogonalMix(nn.Module):
    """``y_i = U x_i`` with ``U = exp(S - S^T)``, orthogonal for every S; its inverse is the transpose.

    Args:
        channels: C of the feature map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.generator = nn.Parameter(torch.randn(channels, channels) * channels**-0.5)

    def forward(self, x_BCHW: Tensor, transpose: bool = False) -> Tensor:
        with torch.autocast(x_BCHW.device.type, enabled=False):
            # In float32 or higher: half precision would leave U orthogonal to three digits only.
            s = self.generator.to(torch.promote_types(self.generator.dtype, torch.float32))
            u = torch.linalg.matrix_exp(s.mT - s if transpose else s - s.mT)
            return torch.einsum('oc,bchw->bohw', u, x_BCHW.to(u.dtype)).to(x_BCHW.dtype)
