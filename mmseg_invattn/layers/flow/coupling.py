"""Couplings: one part of the channels is unchanged, and a sub-network computes from it how the other part changes.

The sub-network is unconstrained. See Dinh et al., https://arxiv.org/abs/1410.8516 and https://arxiv.org/abs/1605.08803.

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

# If two outputs of a sub-network for the same input differ by more than this many rounding errors, the order in which a
# device sums cannot be the reason: the sub-network is random.
RANDOM = 2.0**10


class Coupling(ExplicitInverse):
    """Base class of the additive and the affine coupling.

    Forward pass and inverse evaluate the sub-network at the same numbers and in full precision, so it may be any module
    that gives the same output for the same input. To run it in lower precision, use autocast inside the sub-network, or
    give it parameters of that dtype. ``inverse`` evaluates it twice and raises an error if the outputs differ. The
    effect of an error of y depends on the Lipschitz constant of the sub-network, which is unknown. So
    ``info.error_bound`` holds for a y that the forward pass returned; it is NaN if y comes from the inverse of another
    layer with an error.
    """

    channels: int
    evaluations = 1
    outputs = 1  # output channels of the sub-network for each changed channel

    def __init__(self, channels: int, net: nn.Module, swap: bool = False):
        super().__init__()
        if channels < 2:
            raise ValueError(f'channels={channels} cannot be split in two: a coupling takes at least 2')
        for name, module in net.named_modules():
            counts = isinstance(module, _BatchNorm) or isinstance(module, _NormBase) and module.track_running_stats
            if counts or isinstance(module, _DropoutNd) and module.p > 0:
                raise ValueError(
                    f'the sub-network of a coupling contains {type(module).__name__} ({name or "itself"}), '
                    'whose output does not depend on its input alone, so forward and inverse would differ: use '
                    'GroupNorm or LayerNorm, and no dropout'
                )
        self.channels, self.net, self.swap = channels, net, swap

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the unchanged part, the part that changes)."""
        first, second = x[:, : self.channels // 2], x[:, self.channels // 2 :]
        return (second, first) if self.swap else (first, second)

    def join(self, passed: Tensor, changed: Tensor) -> Tensor:
        return torch.cat((changed, passed) if self.swap else (passed, changed), 1)

    def call_net(self, passed: Tensor, changed: Tensor) -> Tensor:
        """The output of the sub-network: computed in the dtype of its parameters, returned in that of the features."""
        first = next(parameters_of(self.net), passed)
        out = self.net(passed.to(first.dtype))
        want = (changed.shape[0], self.outputs * changed.shape[1], *changed.shape[2:])  # not len(): exports
        if out.shape != want:
            raise ValueError(
                f'the sub-network turned features of shape {tuple(passed.shape)} into '
                f'{tuple(out.shape)}; {type(self).__name__}({self.channels}, swap={self.swap}) needs '
                f'{want}'
            )
        return out.to(changed.dtype)

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
        return [CouplingStep(self.net_of_step, self.change, self.change_back, **self.step_options())]

    def net_of_step(self, passed: Tensor, changed: Tensor) -> Tensor:
        """:meth:`call_net` in full precision: a step of a memory-free pass does not run inside :meth:`forward`."""
        with full_precision(passed.device):
            return self.call_net(passed, changed)

    def step_options(self) -> dict:
        """Arguments of the step: which part is unchanged, the channels of both parts, parameters and buffers."""
        return dict(
            passes=int(self.swap),
            halves=(self.channels // 2, self.channels - self.channels // 2),
            parameters=lambda: tuple(self.parameters()),
            buffers=lambda: tuple(self.buffers()),
        )

    @abstractmethod
    def change(self, changed: Tensor, out: Tensor) -> Tensor:
        """Computes y2 from x2 and the output of the sub-network."""

    @abstractmethod
    def change_back(self, changed: Tensor, out: Tensor) -> Tensor:
        """Computes x2 from y2 and the output of the sub-network."""

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        passed, changed = self.parts(x)
        return self.join(passed, self.change(changed, self.call_net(passed, changed)))

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        passed, changed = self.parts(y)
        return self.join(passed, self.change_back(changed, self.call_net(passed, changed)))

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        """Evaluates the sub-network a second time, at the same numbers as in the forward pass.

        If y was stored in a lower precision, the sub-network reads the unchanged part as it was stored. If x had that
        precision too, these are the numbers of the forward pass.

        Raises:
            ValueError: the sub-network gave another output than the first time.
        """
        (passed, changed), x2 = self.parts(y[0]), self.parts(x)[1]
        out, u = self.call_net(passed, changed), unit_roundoff(x.dtype)
        exact, scale, rounding = self.change_exactly(x2.double(), out, u)
        residual = (changed.double() - exact).abs()
        rounding = rounding + self.parts(stored[0])[1]
        # the inverse adds about as much rounding again
        if (max_token_norm(residual) > RANDOM * max_token_norm(rounding + u * x2.abs() * scale)).any():
            raise ValueError(
                f'the sub-network of {type(self).__name__} gave two different outputs for the same input, so the '
                f'inverse has a residual of {float(residual.max()):.3g}: it draws random numbers (dropout, stochastic '
                'depth) or changes with every call. Switch that off with eval() or in the sub-network. Training with '
                'MemoryFree is possible, because it draws the same random numbers again'
            )
        bound = (residual + rounding) / scale
        return Accuracy(*(max_token_norm(each) for each in (residual, rounding, bound)))

    @abstractmethod
    def change_exactly(self, x2: Tensor, out: Tensor, u: float) -> tuple[Tensor, Tensor, Tensor]:
        """y2 for an x2 in float64, ``d y2 / d x2``, and a bound of the rounding of each number of y2."""

    def extra_repr(self) -> str:
        return f'{self.channels}, swap={self.swap}'


class AdditiveCoupling(Coupling):
    """``y2 = x2 + t(x1)``.

    Args:
        channels: C, at least 2. The first part has ``C // 2`` channels.
        net: t, any sub-network from the unchanged channels to the changed channels, of the same height and width,
            without batch statistics and dropout.
        swap: False changes the second part, True the first. Alternate it from layer to layer.
        lipschitz: an upper bound of Lip(t) in the norm inf2, if ``net`` has one by construction; then a sequence with
            this layer can have an error bound.
    """

    def __init__(self, channels: int, net: nn.Module, swap: bool = False, lipschitz: float | None = None):
        super().__init__(channels, net, swap)
        if lipschitz is not None and not 0 <= lipschitz < float('inf'):
            raise ValueError(f'lipschitz={lipschitz} is not possible: give a finite number of at least 0, or None')
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
        net: any sub-network from the unchanged channels to **twice** the changed channels: raw, then t. It has no batch
            statistics and no dropout.
        swap: False changes the second part, True the first. Alternate it from layer to layer.
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
