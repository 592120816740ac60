"""A flow of every kind of layer, and the gradients of a module."""

import torch
from torch import nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    Split,
    Squeeze,
)


def flow(channels: int = 4) -> InvertibleSequential:
    """Every kind of layer, nested, with a split and a shared layer."""
    shared = InvConvResidual(channels)
    return InvertibleSequential(
        shared,
        ActNorm2d(channels),
        shared,
        InvertibleSequential(
            Squeeze(), InvConv1x1(4 * channels), Split(4 * channels), CertifiedAttention2d(2 * channels, num_heads=2)
        ),
        AdditiveCoupling(
            2 * channels, nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, channels, 1))
        ),
    )


def gradients(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    sum(
        (part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum()
        for part in ((y,) if torch.is_tensor(y) else y)
    ).backward()
    names = {name.removeprefix('module.'): p.grad.clone() for name, p in module.named_parameters()}
    return {**names, 'x': x.grad}
