"""Certified channel attention: the theorem for pixel attention, applied with the channels as tokens.

    y = x + g(x),    g(x)_c = a gain w sum_d P_cd b_d sqrt(N),    P_c. = softmax_d(sign s b_c . b_d)

with ``b_c = B(x_c / sqrt(N))``, where x_c is the normalised map of a channel as a vector in R^N. Each b_c is in the
unit ball, the largest logit is s and the output matrix is a number w with |w| < 1, so

    Lip(g) <= gain |w| (s + sqrt(1 + s^2)) = c |w|     in the norm  max_c |x_c|_2 / sqrt(N)

for every number of pixels and channels. See Fu et al., Dual Attention Network, https://arxiv.org/abs/1809.02983. Their
channel attention uses ``softmax(max - E)``, that is ``sign = -1``: a channel attends to channels that differ from it.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ops import (
    Roundoff,
    ball_rounding,
    drift,
    max_channel_norm,
    pixel_tokens,
    root_of_squares,
    sum_rounding,
    to_ball,
)
from ...ops.attention import softmax_attention
from ..certificate import Assessment
from ..checks import check_contraction, check_count, check_precision, check_sharpness
from ..constant_weights import weights_of
from ..parameters import given_out
from ..residual import ResidualLayer
from .modes.base import inner_rounding
from .saturation import saturated_share
from .sharpness import Sharpness
from .token_norm import NormWeights, TokenNorm


class ChannelWeights(NamedTuple):
    """``sign s`` and ``gain w``, shape (1,) each, and the normalisation."""

    sharpness: Tensor
    gain: Tensor
    norm: NormWeights


class InvChannelAttention(ResidualLayer):
    """Attention over the channels of a feature map, (B, C, H, W) -> (B, C, H, W), with an inverse.

    Residuals and error bounds are in the norm ``max_c |x_c|_2 / sqrt(H W)``, the largest RMS of a channel.

    Args:
        in_channels: C.
        contraction: c, in (0, 1).
        sharpness: s, a number or ``'learned'``.
        similar: attend to channels that resemble (sign +1) instead of those that differ (DANet).
        precision: of the branch in the forward pass, ``'float32'`` or ``'autocast'``, as in
            :class:`~.certified.CertifiedAttention2d`.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        in_channels: int,
        contraction: float = 0.9,
        sharpness: float | str = 2.0,
        similar: bool = False,
        precision: str = 'float32',
    ):
        super().__init__()
        check_count('in_channels', in_channels)
        check_contraction(contraction)
        check_sharpness(sharpness)
        check_precision(precision)
        self.precision = precision
        if sharpness == 'log_n':
            raise ValueError(
                "sharpness='log_n' depends on the number of pixels, but the tokens of channel attention are channels: "
                "give a number, such as half the logarithm of the number of channels, or 'learned'"
            )
        self.channels, self.contraction, self.sign = in_channels, contraction, 1.0 if similar else -1.0
        self.norm = TokenNorm(in_channels)
        self.sharpness = Sharpness(sharpness, 1)
        self.raw = nn.Parameter(torch.ones(1))  # w = tanh(raw)

    def start(self, x: Tensor) -> None:
        self.norm.start_from(pixel_tokens, x)

    def weights(self) -> ChannelWeights:
        raw = given_out(self.raw)
        s = self.sharpness.at(self.sharpness(), None, raw)
        room = 1 - 16 * torch.finfo(s.dtype).eps  # so that the bound never exceeds c
        gain = self.contraction * room / (s + (1 + s.square()).sqrt())
        return ChannelWeights(self.sign * s, gain * torch.tanh(raw), self.norm())

    def _tokens(self, x: Tensor, weights: ChannelWeights) -> Tensor:
        """b, shape (B, 1, C, N)."""
        # In its norm, a channel is smaller than a pixel by a factor sqrt(C). Scaling by sqrt(C) makes channels fill the
        # ball as much as pixels do.
        x_B1NC = weights.norm.centred(pixel_tokens(x))
        return to_ball(x_B1NC.mT, weights.norm.scale * (x_B1NC.shape[2] / self.channels) ** 0.5)

    def branch(self, x: Tensor, weights: ChannelWeights) -> Tensor:
        b_B1CN = self._tokens(x, weights)
        g_B1CN = softmax_attention(b_B1CN * weights.sharpness, b_B1CN, b_B1CN)
        back = weights.norm.scale * weights.gain * (b_B1CN.shape[3] / self.channels) ** 0.5
        return (g_B1CN * back).reshape(x.shape)

    def assess(self, x: Tensor, weights: ChannelWeights, u: Roundoff) -> Assessment:
        """The branch, its Lipschitz bound, and its rounding.

        The rounding consists of the following parts, in the norm of the channels. There are n pixels; S is the spread
        and m the mean of the b_d under P_c; w is the output number in ``gain |w|``, else the unit roundoff of casts.

        b         relative, r = u (4 + log_2(n) |b|^2 / 2)          L |b| r a / sqrt(C)
        scores    dt of s b_c . b_d, and exp                        gain |w| a / sqrt(C) S (dt + u (4 + log C) + w)
        sum       over C channels                                   gain |w| a / sqrt(C) R(C, n) (|m| + S)
        casts     of b, P, their product       gain |w| a / sqrt(C) w (3 |m| + max|b| min(1, 2 sqrt(p)))
        last      products                                          2 (u + w) |g|
        """
        b_B1CN, n = self._tokens(x, weights), x.shape[2] * x.shape[3]
        q_B1CN = b_B1CN * weights.sharpness
        p_B1CC = (q_B1CN @ b_B1CN.mT).softmax(-1)
        mean_B1CN, square_B1C = p_B1CC @ b_B1CN, b_B1CN.square().sum(-1)
        unit = weights.norm.scale[0, 0, 0] / self.channels**0.5
        g = (mean_B1CN * (weights.gain * unit * n**0.5)).reshape(x.shape)
        sizes_B1C = torch.linalg.vector_norm(mean_B1CN, dim=-1)
        spread_B1C = ((p_B1CC @ square_B1C[..., None])[..., 0] - sizes_B1C.square()).clamp(min=0).sqrt()
        radius, still = square_B1C.flatten(1).amax(1).sqrt(), torch.zeros_like(square_B1C[..., 0])
        averaged = (2 * p_B1CC.amax(-1).sqrt()).clamp(max=1)  # errors of different channels are independent
        scores = averaged * (
            inner_rounding(q_B1CN, b_B1CN, still, still, u) + u.sums * (4 + math.log(self.channels)) + u.casts
        )
        sums = sum_rounding(self.channels, n, u.sums) * (sizes_B1C + spread_B1C)
        sums = sums + drift(b_B1CN, mean_B1CN, spread_B1C, self.channels, u.sums)
        # the products in a score are nearly equal if the channels are constant over the pixels
        constant = drift(b_B1CN.mT, b_B1CN.mT, torch.full_like(b_B1CN[..., 0, :], torch.inf), n, u.sums).amax(
            -1, keepdim=True
        )
        scores = scores + constant * weights.sharpness.abs()
        sums = sums + u.casts * (3 * sizes_B1C + averaged * radius[:, None, None]) + u.underflow * n**0.5
        others = (weights.gain.abs() * unit * root_of_squares(spread_B1C * scores, sums)).flatten(1).amax(1)

        def rounding(reach: Tensor, lipschitz: Tensor) -> Tensor:
            beta = (radius + reach / unit).clamp(max=1)
            tokens = ball_rounding(n, beta, u.sums) * lipschitz * unit * beta
            # within the reach, each of the sizes above grows by at most the reach or twice the reach
            return root_of_squares(others, tokens) + 2 * u.any * max_channel_norm(g) + 64 * u.any * n**0.5 * reach

        bound = self.branch_bound(weights, None)
        return Assessment(g, lambda reach: torch.full_like(reach, bound), rounding)

    def branch_norm(self, x: Tensor, groups: int) -> Tensor:
        return max_channel_norm(x)

    def branch_bound(self, weights: ChannelWeights, n: int | None) -> float:
        """``gain |w| (s + sqrt(1 + s^2))``, rounded up; in the norm of the channels, for every number of pixels."""
        sharpness, gain = weights.sharpness.double().abs(), weights.gain.double().abs()
        bound = gain * (sharpness + (1 + sharpness.square()).sqrt())
        return float(bound) * (1 + 8 * torch.finfo(weights.gain.dtype).eps)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``inf``: there is no bound in the norm inf2 for every number of pixels.

        :meth:`inverse_error` has a bound in the norm of the channels.
        """
        return math.inf, math.inf

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        # An error of y is no larger in the norm of the channels than in inf2.
        bound = self._bound(weights_of(self, weights), None)
        return torch.where(error == 0, error, torch.nan if bound is None or bound >= 1 else error / (1 - bound))

    def error_norm(self, x: Tensor) -> Tensor:
        return max_channel_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        """``|x_i|^2 <= sum_c |x_c|^2 <= C N error^2``."""
        return error * x[0].numel() ** 0.5

    def as_tokens(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the channels that the ball saturates, shape (B,); see :func:`~.saturation.saturated_share`."""
        return saturated_share(self, x, self._tokens)

    def extra_repr(self) -> str:
        return f'{self.channels}, contraction={self.contraction}'
