"""Building blocks to test, each built for a number of channels."""

import torch
from torch import nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    CertifiedAttention2d,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    InvRelativeAttention2d,
    MemoryFree,
    Split,
    Squeeze,
)


def net(channels: int, outputs: int = 1, swap: bool = False) -> nn.Module:
    """A sub-network for a coupling of that many channels."""
    passed = max(channels // 2 if not swap else channels - channels // 2, 1)
    return nn.Sequential(
        nn.Conv2d(passed, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, outputs * max(channels - passed, 1), 1)
    )


class Bounded(nn.Module):
    """1x1 convolution of norm ``slope``, then tanh."""

    def __init__(self, channels: int, slope: float):
        super().__init__()
        self.linear, self.slope = nn.Parameter(torch.randn(channels, channels)), slope

    def forward(self, x):
        weight = self.linear * self.slope / torch.linalg.matrix_norm(self.linear, 2)
        return torch.einsum('oc,bchw->bohw', weight, x).tanh()


BLOCKS = {
    'squeeze': lambda c: Squeeze(2),
    'actnorm': ActNorm2d,
    'conv1x1': InvConv1x1,
    'conv_residual': lambda c: InvConvResidual(c, hidden_channels=5),
    'conv_residual_elu': lambda c: InvConvResidual(c, hidden_channels=5, activation='ELU'),
    'relative_attention': lambda c: InvRelativeAttention2d(c, 3),
    'additive': lambda c: AdditiveCoupling(c, net(c)),
    'additive_swap': lambda c: AdditiveCoupling(c, net(c, swap=True), swap=True),
    'affine': lambda c: AffineCoupling(c, net(c, 2)),
    'affine_swap': lambda c: AffineCoupling(c, net(c, 2, swap=True), swap=True),
    'split': Split,
    'residual_sequence': lambda c: InvertibleSequential(
        ActNorm2d(c),
        InvConvResidual(c),
        CertifiedAttention2d(c, reduction=1),
        InvConv1x1(c),
        InvConvResidual(c, kernel_sizes=(3,)),
    ),
    'multi_scale': lambda c: InvertibleSequential(
        Squeeze(2),
        ActNorm2d(4 * c),
        InvConv1x1(4 * c),
        InvConvResidual(4 * c, 3),
        Split(4 * c),
        InvertibleSequential(AdditiveCoupling(2 * c, net(2 * c)), Split(2 * c)),
        AffineCoupling(c, net(c, 2)),
    ),
    'memory_free': lambda c: MemoryFree(InvertibleSequential(ActNorm2d(c), InvConvResidual(c), Split(c))),
}


def settled(block: nn.Module, x: torch.Tensor) -> nn.Module:
    """The block after its first training batch, with parameters away from their start."""
    with torch.no_grad():
        block.train()(x)
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return block
