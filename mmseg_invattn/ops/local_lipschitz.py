"""A measured lower bound of the Lipschitz constant of a map at a point, in the norm inf2.

For an output token i and a unit vector u,  ``sum_j |J_ij^T u|_2 = max { <u, (J dx)_i> : |dx_j|_2 <= 1 }``,  so this sum
never exceeds ``|J|_inf2``. A power iteration improves u:  ``dx_j = J_ij^T u / |J_ij^T u|``,  then ``(i, u)`` from the
largest token of ``J dx``. The result is a lower bound and cannot serve as a certificate; compared with a certificate it
shows how tight that is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .second_derivative import twice_differentiable


def local_lipschitz(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    to_tokens: Callable[[Tensor], Tensor],
    n_iter: int = 10,
    n_starts: int = 8,
) -> Tensor:
    """Lower bound of the Jacobian's norm at x, for each sample, shape (B,), float64 or the dtype of x.

    Args:
        function: maps (B, ...) to the same shape, each sample independently.
        x: the point, shape (B, ...).
        to_tokens: arranges a tensor of that shape as tokens, (B, T, C), linearly and without changing any number.
        n_iter: steps of the power iteration; each costs two passes forwards and backwards.
        n_starts: random starting directions. The result is reproducible: the directions come from a separate
            generator with a fixed seed.

    This works in inference mode too. x may be an inference tensor, but ``function`` must not use any other one.
    """
    generator = torch.Generator().manual_seed(0)
    # J dx is computed as a second derivative, which the fused attention kernels do not have.
    with torch.inference_mode(False), torch.enable_grad(), twice_differentiable():
        best = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        out = to_tokens(function(x))
        # v -> J^T v, kept differentiable in v: its own derivative is v -> J v.
        dummy = torch.zeros_like(out, requires_grad=True)
        (back,) = torch.autograd.grad(out, x, dummy, create_graph=True)
        tokens = to_tokens(back)
        for _ in range(n_starts):
            dx = torch.randn(tokens.shape, generator=generator, dtype=torch.float64).to(x)
            for _ in range(n_iter):
                (forward,) = torch.autograd.grad(tokens, dummy, _unit(dx), retain_graph=True)  # J dx
                size = forward.norm(dim=2)
                best = torch.maximum(best, size.amax(1))
                steepest = size.argmax(1)[:, None, None].expand(-1, 1, forward.shape[2])
                u = torch.zeros_like(forward).scatter(1, steepest, _unit(forward.gather(1, steepest)))
                (pulled,) = torch.autograd.grad(out, x, u, retain_graph=True)
                dx = to_tokens(pulled)
                best = torch.maximum(best, dx.norm(dim=2).sum(1))
    return best


def _unit(x: Tensor) -> Tensor:
    """Scales every token to norm 1; a token of zeros is unchanged."""
    size = x.norm(dim=-1, keepdim=True)
    return x / torch.where(size > 0, size, 1)
