"""The invertible affine normalisation before a certified branch, and the ball behind it.

The branch reads ``b = B((x - m) / a)`` and its output is multiplied by a: a similarity, so the Lipschitz constant is
the same in the units of the features as in the units of the ball, and the certificate does not know of it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import at_least_float32, to_ball
from ..data_dependent import DataDependentStart, sum_of_processes
from ..parameters import given_out

# RMS norm of the tokens at the start, in radii of the ball. The few tokens that stand out are the ones that attention
# looks for, and they are several times as large: at a typical norm of 1 the ball makes all of them alike, and the block
# learns to find them much later or never. The outputs are multiplied by a, so that values keep their size.
START_NORM = 1 / 3


class NormWeights(NamedTuple):
    """m, shape (G, 1, C), and a, shape (G, 1, 1)."""

    centre: Tensor
    scale: Tensor

    def centred(self, x_BGNC: Tensor) -> Tensor:
        """``x - m``."""
        return x_BGNC + -self.centre  # the gradient of a difference would be negated number by number

    def bounded(self, x_BGNC: Tensor) -> Tensor:
        """``b = B((x - m) / a)``."""
        return to_ball(self.centred(x_BGNC), self.scale)


class TokenNorm(DataDependentStart):
    """m and a, learned, set from the first training batch; calling the module gives them in float32 or higher.

    They start so that the ``(x - m) / a`` have an RMS norm of 1/3.

    As in ActNorm the start depends on the data and nothing after it does: train and eval mode give the same output.
    Under distributed training the first batch of all processes counts.

    Args:
        channels: C, channels of a group.
        groups: G; each has an m of shape (C,) and a number a of its own.
    """

    def __init__(self, channels: int, groups: int = 1):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(groups, channels))
        self.log_scale = nn.Parameter(torch.zeros(groups))

    def forward(self) -> NormWeights:
        return NormWeights(given_out(self.centre)[:, None], torch.exp(given_out(self.log_scale))[:, None, None])

    def start_from(self, tokens: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """:meth:`start` from ``tokens(x)``, (B, G, N, C), which is evaluated only where there is one."""
        if self.waits():
            self.start(tokens(at_least_float32(x)))

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        x = x.double()  # squares of large features would overflow
        total = sum_of_processes(torch.full((), x.shape[0] * x.shape[2], dtype=x.dtype, device=x.device))
        centre = sum_of_processes(x.sum((0, 2))) / total
        square = sum_of_processes((x - centre[:, None]).square().sum((0, 2, 3))) / total
        # Features that are all equal have no scale of their own.
        return dict(centre=centre, log_scale=torch.where(square > 0, square, 1).log() / 2 - math.log(START_NORM))
