"""Orthogonal 1x1 convolution: mixes channel groups and keeps every token's norm."""
import torch
from torch import Tensor, nn

from ..ops import full_precision
from .derived import Derives, derived


class OrthogonalMix(Derives):
    """``y_i = U x_i`` with the Cayley transform ``U = (I + S)^-1 (I - S)``, ``S = G - G^T``.

    U is orthogonal for every G, and its inverse is its transpose.

    Args:
        channels: C of the feature map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.generator = nn.Parameter(torch.randn(channels, channels) * channels**-0.5)

    @derived
    def matrix(self) -> Tensor:
        """U, in float64, so that it is orthogonal to the last digit of float32: the inverse relies on it."""
        generator = self.generator.double()
        skew = generator - generator.mT
        eye = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(eye + skew, eye - skew)

    def forward(self, x_BCHW: Tensor, transpose: bool = False) -> Tensor:
        with full_precision(x_BCHW.device):
            u = self.matrix()
            x = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
            return torch.einsum('oc,bchw->bohw', (u.mT if transpose else u).to(x.dtype), x).to(x_BCHW.dtype)
