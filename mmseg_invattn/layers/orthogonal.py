"""Orthogonal matrices over the channels: they mix channel groups and keep the norm of every token."""

import torch
from torch import Tensor, nn


class OrthogonalMatrix(nn.Module):
    """The Cayley transform ``U = (I + S)^-1 (I - S)``, ``S = G - G^T``; calling the module gives U.

    U is orthogonal for every G, and its inverse is its transpose.

    Args:
        channels: C; U has shape (C, C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.generator = nn.Parameter(torch.randn(channels, channels) * channels**-0.5)

    def forward(self) -> Tensor:
        """U in float64, so that it is orthogonal to the last digit of float32; the inverse relies on this."""
        generator = self.generator.double()
        skew = generator - generator.mT
        eye = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        # I + S is never singular, and checking for errors would wait for the device at every training step
        return torch.linalg.solve_ex(eye + skew, eye - skew)[0]


def rotate(x_BCHW: Tensor, u_CC: Tensor | None, transpose: bool = False) -> Tensor:
    """``U x_i`` for every pixel, or ``U^T x_i``, in the dtype of x; x itself if U is None."""
    if u_CC is None:
        return x_BCHW
    return torch.einsum('oc,bchw->bohw', (u_CC.mT if transpose else u_CC).to(x_BCHW.dtype), x_BCHW)
