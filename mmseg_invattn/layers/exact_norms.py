"""Exact norms of small Jacobians, with which certificates are compared."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .contract import outputs


def jacobian_norm(function: Callable[[Tensor], Tensor], x_1CHW: Tensor, groups: int = 1) -> float:
    """Exact Lipschitz constant of ``function`` at x in the norm inf2, from the autograd Jacobian.

    ``max_i max_{|dx_j| <= 1} |sum_j J_ij dx_j|``: not a matrix norm that a library computes. The alternating ascent
    over (u, dx) gives a lower bound that a worst dx attains; restarts from every singular direction make it tight.
    """
    channels = x_1CHW.shape[1] // groups
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(function, x_1CHW, vectorize=True)
    n = x_1CHW.shape[2] * x_1CHW.shape[3]
    # (g, c, n) x (g, c, n) -> tokens t = (g, n)
    j_tcsd = jacobian.reshape(groups, channels, n, groups, channels, n).permute(0, 2, 1, 3, 5, 4)
    return token_norm(j_tcsd.reshape(groups * n, channels, groups * n, channels))


def token_norm(j_tcsd: Tensor) -> float:
    """Operator norm in inf2 of a matrix from tokens s of size d to tokens t of size c, by alternating ascent."""
    u_tkc = torch.eye(j_tcsd.shape[1], dtype=j_tcsd.dtype).expand(len(j_tcsd), -1, -1)
    u_tkc = torch.cat([u_tkc, torch.linalg.svd(j_tcsd.flatten(2), full_matrices=False)[0].mT], 1)
    out_tkc = u_tkc
    for _ in range(50):
        # For fixed u the best dx_s is J_ts^T u / |J_ts^T u|; then the best u is the direction of J dx.
        back_tksd = torch.einsum('tkc,tcsd->tksd', u_tkc, j_tcsd)
        dx_tksd = back_tksd / back_tksd.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        out_tkc = torch.einsum('tcsd,tksd->tkc', j_tcsd, dx_tksd)
        u_tkc = out_tkc / out_tkc.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return float(out_tkc.norm(dim=-1).max())


def flat(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All outputs of a layer side by side, shape (B, D)."""
    return torch.cat([part.flatten(1) for part in outputs(y)], 1)


def token_major(x: Tensor, start: int = 0) -> Tensor:
    """The positions in ``flat(x)``, pixel by pixel: shape (H * W, C)."""
    return start + torch.arange(x[0].numel()).reshape(x.shape[1], -1).T
