"""Couplings (Dinh et al., https://arxiv.org/abs/1410.8516 and https://arxiv.org/abs/1605.08803): one part of the
channels passes and tells a free sub-network how to change the other part.

    additive  y1 = x1,  y2 = x2 + t(x1)                       x2 = y2 - t(y1),                 log|det| = 0
    affine    y1 = x1,  y2 = x2 exp(s(x1)) + t(x1)            x2 = (y2 - t(y1)) exp(-s(y1)),   log|det| = sum s(x1)
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ...ops import AdditiveStep, CouplingStep, Step, full_precision, max_token_norm, unit_roundoff
from ..explicit import Accuracy, ExplicitInverse
from ..parameters import parameters_of

# Two outputs of one sub-network for one input that differ by more than so many rounding errors are no accident of the
# order in which a device sums.
RANDOM = 2.0**10


class Coupling(ExplicitInverse):
    """What the two couplings share.

    Forward and inverse evaluate the sub-network at the same numbers and in full precision, so it may be anything that
    gives the same output for the same input; to run it in lower precision, open an autocast inside it, or give it
    parameters of that dtype. ``inverse`` evaluates it twice and refuses one whose outputs differ. How far an error of y
    spreads depends on its Lipschitz constant, which nobody knows: ``info.error_bound`` is for the y that forward
    returned, and NaN behind another layer that leaves an error.
    """

    channels: int
    evaluations = 1
    outputs = 1  # of the sub-network, for each changed channel

    def __init__(self, channels: int, net: nn.Module, swap: bool = False):
        super().__init__()
        if channels < 2:
            raise ValueError(f'channels={channels} cannot be split in two: a coupling takes at least 2')
        for name, module in net.named_modules():
            counts = isinstance(module, _BatchNorm) or isinstance(module, _NormBase) and module.track_running_stats
            if counts or isinstance(module, _DropoutNd) and module.p > 0:
                raise ValueError(
                    f'the sub-network of a coupling holds {type(module).__name__} ({name or "itself"}): '
                    'its output depends on more than its input, so forward and inverse would differ; use '
                    'GroupNorm or LayerNorm, and no dropout'
                )
        self.channels, self.net, self.swap = channels, net, swap

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(what passes, what is changed)."""
        first, second = x[:, : self.channels // 2], x[:, self.channels // 2 :]
        return (second, first) if self.swap else (first, second)

    def join(self, passed: Tensor, changed: Tensor) -> Tensor:
        return torch.cat((changed, passed) if self.swap else (passed, changed), 1)

    def call_net(self, passed: Tensor, changed: Tensor) -> Tensor:
        """The sub-network of what passes: computed in the dtype of its parameters, returned in that of the features."""
        first = next(parameters_of(self.net), passed)
        out = self.net(passed.to(first.dtype))
        want = (changed.shape[0], self.outputs * changed.shape[1], *changed.shape[2:])  # len() would fix it in exports
        if out.shape != want:
            raise ValueError(
                f'the sub-network turned features of shape {tuple(passed.shape)} into '
                f'{tuple(out.shape)}; {type(self).__name__}({self.channels}, swap={self.swap}) needs '
                f'{want} from it'
            )
        return out.to(changed.dtype)

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
        return [CouplingStep(self.net_of_step, self.change, self.change_back, **self.step_options())]

    def net_of_step(self, passed: Tensor, changed: Tensor) -> Tensor:
        """As :meth:`transform` is evaluated, which a step of a memory-free pass is not inside."""
        with full_precision(passed.device):
            return self.call_net(passed, changed)

    def step_options(self) -> dict:
        """What every step of a coupling has: which part passes, how many channels each has, what learns."""
        return dict(
            passes=int(self.swap),
            halves=(self.channels // 2, self.channels - self.channels // 2),
            parameters=lambda: tuple(self.parameters()),
            buffers=lambda: tuple(self.buffers()),
        )

    @abstractmethod
    def change(self, changed: Tensor, out: Tensor) -> Tensor:
        """y2 of x2 and what the sub-network gave."""

    @abstractmethod
    def change_back(self, changed: Tensor, out: Tensor) -> Tensor:
        """x2 of y2 and what the sub-network gave."""

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        passed, changed = self.parts(x)
        return self.join(passed, self.change(changed, self.call_net(passed, changed)))

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        passed, changed = self.parts(y)
        return self.join(passed, self.change_back(changed, self.call_net(passed, changed)))

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        """By a second evaluation of the sub-network, at the numbers that forward evaluated it at.

        Where y was stored in a lower precision the sub-network reads what passes as it was stored, which is how it was
        given if x had that precision.

        Raises:
            ValueError: it gave another output than the first time.
        """
        (passed, changed), x2 = self.parts(y[0]), self.parts(x)[1]
        out, u = self.call_net(passed, changed), unit_roundoff(x.dtype)
        exact, scale, rounding = self.change_exactly(x2.double(), out, u)
        residual = (changed.double() - exact).abs()
        rounding = rounding + self.parts(stored[0])[1]
        # solving rounded as much once more, and a little
        if (max_token_norm(residual) > RANDOM * max_token_norm(rounding + u * x2.abs() * scale)).any():
            raise ValueError(
                f'the sub-network of {type(self).__name__} gave two outputs for one input, and the inverse is off by '
                f'{float(residual.max()):.3g}: it draws random numbers (dropout, stochastic depth) or changes with '
                'every call. Switch that off, by eval() or in the sub-network; MemoryFree draws the same numbers again '
                'and may train it'
            )
        bound = (residual + rounding) / scale
        return Accuracy(*(max_token_norm(each) for each in (residual, rounding, bound)))

    @abstractmethod
    def change_exactly(self, x2: Tensor, out: Tensor, u: float) -> tuple[Tensor, Tensor, Tensor]:
        """y2 of an x2 in float64, ``d y2 / d x2``, and bounds of the rounding in y2, number by number."""

    def extra_repr(self) -> str:
        return f'{self.channels}, swap={self.swap}'


class AdditiveCoupling(Coupling):
    """``y2 = x2 + t(x1)``.

    Args:
        channels: C, at least 2. The first part has ``C // 2`` channels.
        net: t, any sub-network from the channels that pass to those that change, of the same height and width. It
            holds no batch statistics and no dropout.
        swap: the second part passes and the first changes. Alternate it from layer to layer.
        lipschitz: an upper bound of Lip(t) in the norm inf2, if ``net`` has one by construction; then error bounds
            carry through a sequence.
    """

    def __init__(self, channels: int, net: nn.Module, swap: bool = False, lipschitz: float | None = None):
        super().__init__(channels, net, swap)
        if lipschitz is not None and not 0 <= lipschitz < float('inf'):
            raise ValueError(f'lipschitz={lipschitz} is not a bound: give a number of at least 0, or None')
        self.lipschitz = lipschitz

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
        return [AdditiveStep(self.net_of_step, **self.step_options())]

    def change(self, changed: Tensor, out: Tensor) -> Tensor:
        return changed + out

    def change_back(self, changed: Tensor, out: Tensor) -> Tensor:
        return changed - out

    def change_exactly(self, x2: Tensor, out: Tensor, u: float) -> tuple[Tensor, Tensor, Tensor]:
        y2 = x2 + out.double()
        return y2, torch.ones_like(y2), (u + 2.0**-53) * y2.abs()

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        bound = float('inf') if self.lipschitz is None else 1.0 + self.lipschitz
        return bound, bound


class AffineCoupling(Coupling):
    """``y2 = x2 exp(s(x1)) + t(x1)`` with ``s = m tanh(raw / m)``, so that no channel is scaled by more than e^m.

    Args:
        channels: C, at least 2. The first part has ``C // 2`` channels.
        net: any sub-network from the channels that pass to **twice** those that change: raw, then t. It holds no batch
            statistics and no dropout.
        swap: the second part passes and the first changes. Alternate it from layer to layer.
        max_log_scale: m.
    """

    outputs = 2

    def __init__(self, channels: int, net: nn.Module, swap: bool = False, max_log_scale: float = 2.0):
        super().__init__(channels, net, swap)
        if not 0 < max_log_scale < float('inf'):
            raise ValueError(f'max_log_scale={max_log_scale} is not a positive number; the default is 2.0')
        self.max_log_scale = max_log_scale

    def log_scale_and_shift(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """(s, t)."""
        raw, shift = out.chunk(2, 1)
        return self.max_log_scale * torch.tanh(raw / self.max_log_scale), shift

    def change(self, changed: Tensor, out: Tensor) -> Tensor:
        log_scale, shift = self.log_scale_and_shift(out)
        return changed * log_scale.exp() + shift

    def change_back(self, changed: Tensor, out: Tensor) -> Tensor:
        log_scale, shift = self.log_scale_and_shift(out)
        return (changed - shift) * (-log_scale).exp()

    def change_exactly(self, x2: Tensor, out: Tensor, u: float) -> tuple[Tensor, Tensor, Tensor]:
        log_scale, shift = self.log_scale_and_shift(out)
        scale = log_scale.exp().double()
        product, u = x2 * scale, u + 2.0**-53
        y2 = product + shift.double()
        return y2, scale, u * (product.abs() + y2.abs()) + torch.finfo(out.dtype).tiny

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float('inf'), float('inf')  # d y2 / d x1 grows with x2

    def transform_and_log_det(self, x: Tensor, weights: tuple) -> tuple[Tensor, Tensor]:
        """The log-determinant is ``sum s(x1)``."""
        passed, changed = self.parts(x)
        out = self.call_net(passed, changed)
        return (self.join(passed, self.change(changed, out)), self.log_scale_and_shift(out)[0].flatten(1).sum(1))
