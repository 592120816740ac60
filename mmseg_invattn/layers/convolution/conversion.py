"""Convolution as attention, and back (Cordonnier et al., theorem 1, https://arxiv.org/abs/1911.03584).

A k x k convolution is ``out_i = b + sum_h W_h x_(i + d_h)`` over its k^2 taps h at the offsets d_h. A head with a
quadratic encoding of centre d_h and width alpha gives the offset ``d_h + u`` the weight

    e^(-alpha |u|^2) / theta(alpha)^2,      theta(alpha) = sum over integers n of e^(-alpha n^2)

So it equals the shift by d_h up to a weight ``e(alpha) = 1 - theta(alpha)^-2 = 4 e^-alpha + ...``, and away from the
border

    |attention(x) - conv(x)|_inf2  <=  2 e(alpha) sum_h |W_h|_2 |x|_inf2

Shape suffixes: G heads or taps, O output channels, C input channels of a group, I groups, 2 the coordinates (row,
column).
"""

import math

import torch
from torch import Tensor, nn

from ...ops import spectral_norm_bound
from .encoding import QuadraticEncoding
from .mixing import PositionMixing


def shift_error(width: float) -> float:
    """``e(width)``, the weight that a quadratic head gives to other offsets than its centre; width in 1 / pixel^2."""
    # t = theta - 1, computed directly because 1 + t would lose digits; e = 1 - (1 + t)^-2
    t = 2 * sum(math.exp(-width * n * n) for n in range(1, 2 + math.ceil((40 / width) ** 0.5)))
    return -math.expm1(-2 * math.log1p(t))


def width_for(dtype: torch.dtype) -> float:
    """The width with which a head is a shift in this dtype, because ``4 e^-alpha`` equals its rounding."""
    return math.log(4 / torch.finfo(dtype).eps)


def heads_from_conv(conv: nn.Conv2d) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The heads that express a convolution: centres (G, 2), matrices (O, G, C), zero padding.

    Raises:
        ValueError: an even kernel, unequal strides, or a padding that attention cannot express.
    """
    if any(k % 2 == 0 for k in conv.kernel_size):
        raise ValueError(f'kernel_size={conv.kernel_size} is not odd: an even kernel has no centre pixel')
    if conv.stride[0] != conv.stride[1]:
        raise ValueError(f'stride={conv.stride} differs for rows and columns; attention takes one stride')
    half = (conv.dilation[0] * (conv.kernel_size[0] // 2), conv.dilation[1] * (conv.kernel_size[1] // 2))
    padding = half if conv.padding == 'same' else (0, 0) if conv.padding == 'valid' else tuple(conv.padding)
    if padding != half or conv.padding_mode not in ('zeros', 'replicate'):
        raise ValueError(
            f'padding={conv.padding} in mode {conv.padding_mode!r} cannot be expressed by attention, which keeps '
            f"the size of the map: use padding={half} in mode 'zeros' or 'replicate'"
        )
    axes = [torch.arange(-reach, reach + 1, max(step, 1)) for reach, step in zip(half, conv.dilation, strict=True)]
    centre_G2 = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2)
    weight_OGC = conv.weight.detach().flatten(2).mT
    return centre_G2.to(weight_OGC), weight_OGC, half if conv.padding_mode == 'zeros' else (0, 0)


@torch.no_grad()
def place_heads(mixing: PositionMixing, centre_G2: Tensor, width: float) -> None:
    """Sets the centres of the heads of a quadratic encoding, and their common width in 1 / pixel^2."""
    encoding = mixing.encoding
    assert isinstance(encoding, QuadraticEncoding)
    encoding.centre.copy_(centre_G2)
    encoding.root.fill_((2 * width) ** 0.5)


def offset_weights(mixing: PositionMixing) -> Tensor:
    """The weight of every offset for each head, at the centre of a map: (G, 2 reach + 1, 2 reach + 1).

    The reach is that of the encoding; offsets beyond it are ignored.
    """
    like, reach = mixing.encoding.like, mixing.encoding.reach
    axis = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    offset_M2 = torch.stack(torch.meshgrid(axis, axis, indexing='ij'), -1).reshape(-1, 2)
    weights = mixing.encoding(torch.zeros_like(offset_M2[:1]), offset_M2).flatten(1).softmax(-1)
    return weights.unflatten(1, (len(axis), len(axis)))


def conv_from_heads(
    mixing: PositionMixing, weight_OGC: Tensor, bias: Tensor | None, groups: int
) -> tuple[nn.Conv2d, float]:
    """The smallest convolution that includes the offset with the largest weight of every head.

    Its taps are ``sum_h P_h(d) W_h``, the best choice for each tap. The error bound is the sum over h of ``|W_h|_2``
    times the weight of head h outside the taps.
    """
    p_GSS = offset_weights(mixing)
    side, reach = p_GSS.shape[-1], mixing.encoding.reach
    place_G = p_GSS.flatten(1).argmax(1)
    offset_G2 = torch.stack([place_G // side, place_G % side], 1) - reach
    half, dilation = [], []
    for axis in (0, 1):
        values = offset_G2[:, axis].abs().tolist()
        half.append(max(values))
        dilation.append(math.gcd(*values) or 1)
    rows, columns = (slice(reach - h, reach + h + 1, d) for h, d in zip(half, dilation, strict=True))
    taps_GHW = p_GSS[:, rows, columns]
    zeros = any(mixing.padding)
    conv = nn.Conv2d(
        weight_OGC.shape[2] * groups,
        len(weight_OGC),
        (taps_GHW.shape[1], taps_GHW.shape[2]),
        stride=mixing.stride,
        padding=(half[0], half[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        bias=bias is not None,
        padding_mode='zeros' if zeros else 'replicate',
    ).to(weight_OGC)
    conv.weight.copy_(torch.einsum('ogc,ghw->ochw', weight_OGC, taps_GHW))
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    # the outputs of the groups are side by side, so the root of the sum of their squares is a bound
    norm_IG = spectral_norm_bound(weight_OGC.unflatten(0, (groups, -1)).transpose(1, 2))
    elsewhere_G = 1 - taps_GHW.double().flatten(1).sum(1)
    # every weight of P may have a relative rounding error of eps
    elsewhere_G = elsewhere_G.clamp(min=0) + 4 * torch.finfo(p_GSS.dtype).eps
    return conv, float((norm_IG * elsewhere_G).sum(1).square().sum().sqrt())
