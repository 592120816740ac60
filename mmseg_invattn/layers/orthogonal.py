"""Orthogonal matrices over the channels: they mix channel groups and keep the norm of every token."""

import torch
from torch import Tensor, nn


class OrthogonalMatrix(nn.Module):
    """The Cayley transform ``U = (I + S)^-1 (I - S)``, ``S = G - G^T``; calling the module gives U.

    U is orthogonal for every G, and its inverse is its transpose.

    Args:
        channels: C; U has shape (C, C).
        start: U at the start, shape (..., C, C) for one matrix or several, without an eigenvalue of -1; by default one
            random matrix.
    """

    def __init__(self, channels: int, start: Tensor | None = None):
        super().__init__()
        if start is None:
            generator = torch.randn(channels, channels) * channels**-0.5
        else:  # the Cayley transform is its own inverse
            eye = torch.eye(channels, dtype=torch.float64)
            generator = (torch.linalg.solve(eye + start.double(), eye - start.double()) / 2).float()
        self.generator = nn.Parameter(generator)

    def forward(self) -> Tensor:
        """U in float64, so that it is orthogonal to the last digit of float32; the inverse relies on this."""
        generator = self.generator.double()
        skew = generator - generator.mT
        eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        # I + S is never singular, and checking for errors would wait for the device at every training step
        return torch.linalg.solve_ex(eye + skew, eye - skew)[0]


def rotate(x_BCHW: Tensor, u_CC: Tensor | None, transpose: bool = False) -> Tensor:
    """``U x_i`` for every pixel, or ``U^T x_i``, in the dtype of x; x itself if U is None."""
    if u_CC is None:
        return x_BCHW
    return torch.einsum('oc,bchw->bohw', (u_CC.mT if transpose else u_CC).to(x_BCHW.dtype), x_BCHW)
