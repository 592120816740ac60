"""The share of a feature map that is saturated by the map into the ball."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ops import cast_all, full_precision
from ..checks import check_features
from ..constant_weights import weights_of
from ..parameters import compute_dtype
from ..residual import ResidualLayer


def saturated_share(layer: ResidualLayer, x: Tensor, bounded: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Share of the tokens whose norm in the ball exceeds 0.9, shape (B,).

    Their norm before the map into the ball is at least twice its radius. The branch sees the direction of such tokens,
    but hardly their size. A large share means that the normalisation does not fit the features any more.

    Args:
        layer: the layer whose weights are used.
        x: features, (B, C, H, W).
        bounded: (x, weights) -> tokens in the ball, (B, G, N, C).
    """
    check_features(x, layer.channels)
    dtype = compute_dtype(layer, x)
    with full_precision(x.device):
        b_BGNC = bounded(x.to(dtype), cast_all(weights_of(layer), dtype))
    return (b_BGNC.norm(dim=-1) > 0.9).to(dtype).mean((1, 2))
