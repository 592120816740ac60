"""The token-wise map into a ball: attention reads a bounded copy of its input, the skip path keeps the input."""
import torch
from torch import Tensor


def to_ball(x: Tensor, radius: float = 1.0) -> Tensor:
    """Maps every token into the open ball of the given radius, smoothly and without expanding distances.

    ``B(x) = x / sqrt(1 + |x|^2 / R^2)``. Its Jacobian has the eigenvalues ``(1 + r^2)^(-1/2)`` (tangential) and
    ``(1 + r^2)^(-3/2)`` (radial) with ``r = |x| / R``: both at most 1.

    Args:
        x: tokens, shape (..., C).
        radius: R > 0.

    Returns:
        Tensor of the shape of ``x``; every token has a norm below ``radius``.
    """
    # hypot-like scaling: |x|^2 would overflow float32 beyond 1e19, and a token of that size must still map to R.
    size = x.abs().amax(-1, keepdim=True).clamp(min=radius).detach()
    scaled = x / size
    return radius * scaled / torch.sqrt((radius / size).square() + scaled.square().sum(-1, keepdim=True))
