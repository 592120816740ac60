"""The token-wise map into the unit ball. Attention reads the mapped tokens; the skip path keeps the input unchanged."""

import torch
from torch import Tensor

from .second_derivative import recorded, transformed


def to_ball(x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Maps every token into the open unit ball, smoothly, and without expanding distances measured in units of a.

    ``b = B(x / a) = x / sqrt(a^2 + |x|^2)``. The Jacobian of B has the eigenvalues ``(1 + r^2)^(-1/2)`` (tangential)
    and ``(1 + r^2)^(-3/2)`` (radial) with ``r = |x| / a``: both at most 1.

    Args:
        x: tokens, shape (..., C).
        scale: a > 0, a number or a tensor that broadcasts to (..., 1).

    Returns:
        Tensor of the shape of ``x``; every token has a norm below 1.
    """
    scale = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    plain = torch.compiler.is_compiling() or transformed() or not recorded(x, scale)
    return _ball(x, scale)[0] if plain else _Ball.apply(x, scale)


def _ball(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """b and ``1 / sqrt(a^2 + |x|^2)``, shape (..., 1)."""
    # Scaling as in hypot: |x|^2 overflows float32 beyond |x| = 1e19, and such a token must still map close to norm 1.
    size = torch.maximum(x.detach().abs().amax(-1, keepdim=True), scale.detach())
    scaled = x / size
    inverse = ((scale / size).square() + scaled.square().sum(-1, keepdim=True)).rsqrt()
    return scaled * inverse, inverse / size


class _Ball(torch.autograd.Function):
    """With ``h = sqrt(a^2 + |x|^2)`` and the gradient G of b

        dL/dx = (G - b (b . G)) / h,        dL/da = -a / h^2 sum (b . G)

    This takes a third of the passes over the features that differentiating the formula takes.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor) -> Tensor:
        b, inverse = _ball(x, scale)
        ctx.save_for_backward(x, scale, b, inverse)
        return b

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, scale, b, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: the saved tensors have no graph
            b, inverse = _ball(x, scale)
        inner = (grad * b).sum(-1, keepdim=True)
        d_scale = None
        if ctx.needs_input_grad[1]:
            d_scale = (-scale * inverse.square() * inner).sum_to_size(scale.shape)
        return torch.addcmul(grad, b, inner, value=-1) * inverse, d_scale
