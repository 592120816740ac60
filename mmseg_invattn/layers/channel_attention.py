"""Certified channel attention: the theorem of the pixels with the channels as tokens.

    y = x + g(x),    g(x)_c = a gain w sum_d P_cd b_d sqrt(N),    P_c. = softmax_d(sign s b_c . b_d)

with ``b_c = B(x_c / sqrt(N))``, the normalised channel map as a vector of R^N over its root of N. Each b_c is in the
unit ball, the largest logit is s and the output matrix is the number w with |w| < 1, so

    Lip(g) <= gain |w| (s + sqrt(1 + s^2)) = c |w|     in the norm  max_c |x_c|_2 / sqrt(N)

for every number of pixels and channels. Fu et al., Dual Attention Network, https://arxiv.org/abs/1809.02983, whose
channel attention takes ``softmax(max - E)``, that is ``sign = -1``: a channel looks at those that differ from it.
"""
import math

import torch
from torch import Tensor, nn

from ..ops import Roulette, full_precision, local_lipschitz, max_channel_norm, residual_log_abs_det, to_ball
from ..ops.attention import softmax_attention
from .base import InverseInfo, InvertibleModule, check_features, invert_residual
from .inv_nonlocal import InvNonLocal2d
from .sequential import InvertibleSequential, largest_bound
from .sharpness import Sharpness
from .spec import check_contraction, check_count, check_sharpness
from .token_norm import TokenNorm


class InvChannelAttention(InvertibleModule):
    """Attention over the channels of a feature map, (B, C, H, W) -> (B, C, H, W), with an inverse.

    Residuals and error bounds are in the norm ``max_c |x_c|_2 / sqrt(H W)``, the largest RMS of a channel.

    Args:
        in_channels: C.
        contraction: c, in (0, 1).
        sharpness: s, a number or ``'learned'``.
        similar: attend to channels that resemble (sign +1) instead of those that differ (DANet).

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, in_channels: int, contraction: float = 0.9, sharpness: float | str = 2.0, similar: bool = False):
        super().__init__()
        check_count('in_channels', in_channels)
        check_contraction(contraction)
        check_sharpness(sharpness)
        if sharpness == 'log_n':
            raise ValueError('sharpness=\'log_n\' follows the number of pixels, and these tokens are channels: give a '
                             'number, such as half the logarithm of the channels, or \'learned\'')
        self.channels, self.contraction, self.sign = in_channels, contraction, 1.0 if similar else -1.0
        self.norm = TokenNorm(in_channels)
        self.sharpness = Sharpness(sharpness, 1)
        self.raw = nn.Parameter(torch.ones(1))  # w = tanh(raw)

    def weights(self) -> tuple[Tensor, Tensor]:
        """(sign s, gain w), shape (1,) each, in float32 or higher."""
        dtype = torch.promote_types(self.raw.dtype, torch.float32)
        s = self.sharpness(None).to(dtype)
        gain = self.contraction / (s + (1 + s.square()).sqrt())
        return self.sign * s, gain * torch.tanh(self.raw.to(dtype))

    def _channels(self, x: Tensor) -> Tensor:
        """b, shape (B, 1, C, N)."""
        # The norm makes a channel smaller than a pixel by sqrt(C): sqrt(C) brings channels as near to the ball's rim.
        x_B1NC = self.norm.centred(x.to(self.norm.centre.dtype).flatten(2).mT[:, None])
        return to_ball(x_B1NC.mT, self.norm.scale() * (x_B1NC.shape[2] / self.channels)**0.5)

    def branch(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        """g(x), shape (B, C, H, W), in the dtype of the weights."""
        with full_precision(x.device):
            sharpness, gain = weights
            b_B1CN = self._channels(x)
            g_B1CN = softmax_attention(b_B1CN * sharpness, b_B1CN, b_B1CN)
            back = self.norm.scale() * gain * (b_B1CN.shape[3] / self.channels)**0.5
            return (g_B1CN * back).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        with full_precision(x.device):
            return x + self.branch(x, self.weights()).to(x.dtype)

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        weights = self.weights()
        eps = torch.finfo(y.dtype).eps
        with full_precision(y.device):
            return invert_residual(lambda x, index: self.branch(x, weights), y.to(weights[0].dtype),
                                   self.lipschitz_bound(), groups=1, eps=eps, tol=tol, max_iter=max_iter,
                                   strict=strict, norm=lambda r, groups: max_channel_norm(r))

    @torch.no_grad()
    def lipschitz_bound(self, n: int | None = None) -> float:
        """``gain |w| (s + sqrt(1 + s^2))``, rounded up; in the norm of the channels, for every number of pixels."""
        sharpness, gain = (w.double().abs() for w in self.weights())
        bound = gain * (sharpness + (1 + sharpness.square()).sqrt())
        return float(bound) * (1 + 8 * torch.finfo(torch.promote_types(self.raw.dtype, torch.float32)).eps)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Not bounded in the norm inf2 for every number of pixels; :meth:`inverse_error` is in that of the channels."""
        return math.inf, math.inf

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        # An error of y is no larger in the norm of the channels than in inf2.
        bound = self.lipschitz_bound()
        return torch.where(error == 0, error, error / (1 - bound) if bound < 1 else torch.nan)

    def error_norm(self, x: Tensor) -> Tensor:
        return max_channel_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        """``|x_i|^2 <= sum_c |x_c|^2 <= C N error^2``."""
        return error * x[0].numel()**0.5

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        check_features(x, self.channels)
        return residual_log_abs_det(lambda x: self.branch(x, self.weights()).to(x.dtype), x, n_terms, n_samples,
                                    self.lipschitz_bound)

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the branch's Lipschitz constant at x in the norm of the channels, shape (B,)."""
        check_features(x, self.channels)
        weights = self.weights()
        return local_lipschitz(lambda x: self.branch(x, weights), x.to(weights[0].dtype), lambda t: t.flatten(2))

    @torch.no_grad()
    def saturation(self, x: Tensor) -> Tensor:
        """Share of the channels whose bounded copy has a norm above 0.9, shape (B,)."""
        check_features(x, self.channels)
        return (self._channels(x).norm(dim=-1) > 0.9).to(self.raw.dtype).mean((1, 2))


class InvDualAttention(InvertibleSequential):
    """Channel attention, then position attention, as one invertible block (DANet has them side by side).

    This order keeps the error bound: what the inverse of the position attention leaves open per pixel is no larger in
    the norm of the channels. ``info`` is in that norm, as for :class:`InvChannelAttention`.

    Args:
        in_channels: C.
        channel: further arguments of :class:`InvChannelAttention`.
        position: further arguments of :class:`~mmseg_invattn.layers.InvNonLocal2d`.

    Raises:
        ValueError: an argument breaks its rule; ``form='none'`` has no inverse.
    """

    def __init__(self, in_channels: int, channel: dict | None = None, position: dict | None = None):
        position = dict(position or {})
        if position.get('form') == 'none':
            raise ValueError('position has form=\'none\', which has no inverse: choose one of \'certified\', '
                             '\'conditional\', \'coupling\' or \'paper\'')
        super().__init__(InvChannelAttention(in_channels, **(channel or {})), InvNonLocal2d(in_channels, **position))

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        """The larger of the two, each in its own norm."""
        return largest_bound(layer.lipschitz_bound(n) for layer in self)
