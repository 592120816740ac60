"""The affine normalisation before a certified branch, and the map into the ball that follows it.

The branch reads ``b = B((x - m) / a)`` and its output is multiplied by a. Shifting and scaling do not change the
Lipschitz constant: it is the same in the units of the features and in the units of the ball. So the certificate does
not depend on m and a.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import at_least_float32, to_ball
from ..data_dependent import DataDependentStart, sum_of_processes
from ..parameters import given_out

# RMS norm of the tokens at the start, in radii of the ball. Attention looks for the few tokens that stand out, and
# these are several times as large as typical tokens. If a typical norm were 1, the ball would make all of them nearly
# equal, and the block would learn to find them much later or never. The outputs are multiplied by a, so values keep
# their size.
START_NORM = 1 / 3


class NormWeights(NamedTuple):
    """m, shape (G, 1, C), and a, shape (G, 1, 1)."""

    centre: Tensor
    scale: Tensor

    def centred(self, x_BGNC: Tensor) -> Tensor:
        """``x - m``."""
        return x_BGNC + -self.centre  # not x - m, whose gradient in m would negate a full-size tensor

    def bounded(self, x_BGNC: Tensor) -> Tensor:
        """``b = B((x - m) / a)``."""
        return to_ball(self.centred(x_BGNC), self.scale)


class TokenNorm(DataDependentStart):
    """Learned m and a, initialised from the first training batch; calling the module returns them in float32 or higher.

    They are initialised so that the tokens ``(x - m) / a`` have an RMS norm of 1/3.

    As in ActNorm, only the initialisation depends on the data: train and eval mode give the same output. In distributed
    training the first batches of all processes are used together.

    Args:
        channels: C, channels of a group.
        groups: G; each group has its own m of shape (C,) and its own number a.
    """

    def __init__(self, channels: int, groups: int = 1):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(groups, channels))
        self.log_scale = nn.Parameter(torch.zeros(groups))

    def forward(self) -> NormWeights:
        return NormWeights(given_out(self.centre)[:, None], torch.exp(given_out(self.log_scale))[:, None, None])

    def start_from(self, tokens: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Calls :meth:`start` with ``tokens(x)``, (B, G, N, C), which is evaluated only if it is needed."""
        if self.waits():
            self.start(tokens(at_least_float32(x)))

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        x = x.double()  # squares of large features would overflow
        total = sum_of_processes(torch.full((), x.shape[0] * x.shape[2], dtype=x.dtype, device=x.device))
        centre = sum_of_processes(x.sum((0, 2))) / total
        square = sum_of_processes((x - centre[:, None]).square().sum((0, 2, 3))) / total
        # Features that are all equal have no scale; use 1.
        return dict(centre=centre, log_scale=torch.where(square > 0, square, 1).log() / 2 - math.log(START_NORM))
