"""More channels at the input of a reversible network, by an injective layer with a left inverse.

    y = (x, round(t(x)))          x = the first channels of y

The sub-network t is unconstrained; it is rounded to the grid of :mod:`.grid`, so that the reversible layers behind it
are exact.
"""

from typing import NoReturn

import torch
from torch import Tensor, nn

from ...ops import Roulette, max_token_norm
from ...wording import counted
from ..explicit import Accuracy, ExplicitInverse
from .grid import to_grid


class ChannelExpansion(ExplicitInverse):
    """``y = (x, t(x))``: (B, in_channels, H, W) -> (B, channels, H, W), injective, to be used after :class:`ToGrid`.

    The inverse reads the first channels, so it is exact. The map is not onto: a y that no x has is recovered to the x
    in its first channels, and ``info.residual`` says how far y is from what x gives. There is no log-determinant.

    Args:
        in_channels: channels of x.
        channels: channels of y, more than ``in_channels``.
        net: t, from ``in_channels`` to ``channels - in_channels`` channels, of the same height and width, without batch
            statistics and dropout.

    Raises:
        ValueError: there are no channels to add, or t returns another shape.
    """

    def __init__(self, in_channels: int, channels: int, net: nn.Module):
        super().__init__()
        if not 0 < in_channels < channels:
            raise ValueError(f'channels={channels} adds no channels to in_channels={in_channels}: choose more')
        self.in_channels, self.out_channels, self.net = in_channels, channels, net

    def added(self, x: Tensor) -> Tensor:
        """t(x), on the grid."""
        out = self.net(x)
        want = (x.shape[0], self.out_channels - self.in_channels, *x.shape[2:])
        if out.shape != want:
            raise ValueError(
                f'the sub-network of ChannelExpansion({self.in_channels}, {self.out_channels}) turned features of '
                f'shape {tuple(x.shape)} into {tuple(out.shape)}; it has to return {want}'
            )
        return to_grid(out.to(x.dtype))

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        self._check(x, self.in_channels)
        return torch.cat((x, self.added(x)), 1)

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        self._check(y, self.out_channels)
        return y[:, : self.in_channels].contiguous()

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        residual = max_token_norm((y[0][:, self.in_channels :] - self.added(x)).double())
        rounding = max_token_norm(stored[0])
        return Accuracy(residual, rounding, max_token_norm(stored[0][:, : self.in_channels]))

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float('inf'), 1.0

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: tuple | None = None
    ) -> NoReturn:
        raise ValueError(
            f'ChannelExpansion({self.in_channels}, {self.out_channels}) has no log-determinant: it returns more '
            'numbers than it gets. For a flow, use as many channels inside as the input has'
        )

    def _check(self, x: Tensor, channels: int) -> None:
        if x.shape[1] != channels:
            raise ValueError(
                f'got {counted(x.shape[1], "channel")}; ChannelExpansion({self.in_channels}, {self.out_channels}) '
                f'takes {channels} here'
            )

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}'
