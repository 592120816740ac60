"""How much of a feature map the ball of the scores saturates."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ops import cast_all, full_precision
from ..constant_weights import weights_of
from ..contract import check_features
from ..parameters import compute_dtype
from ..residual import ResidualLayer


def saturated_share(layer: ResidualLayer, x: Tensor, bounded: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Share of the tokens whose bounded copy has a norm above 0.9, twice the radius or more before it, shape (B,).

    Such tokens differ in direction for the branch and hardly in size. Many of them: the normalisation no longer fits
    the features.

    Args:
        layer: whose weights are used.
        x: features, (B, C, H, W).
        bounded: (x, weights) -> tokens in the ball, (B, G, N, C).
    """
    check_features(x, layer.channels)
    dtype = compute_dtype(layer, x)
    with full_precision(x.device):
        b_BGNC = bounded(x.to(dtype), cast_all(weights_of(layer), dtype))
    return (b_BGNC.norm(dim=-1) > 0.9).to(dtype).mean((1, 2))
