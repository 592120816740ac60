"""Density of the latents of a flow."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NormalPrior(nn.Module):
    """Independent normal numbers: standard, or with a mean and a scale for each class and channel.

        log p(z | k) = - sum ( (z - m_k)^2 / (2 a_k^2) + log a_k + log(2 pi) / 2 ),    m = 0, a = 1 at the start

    Args:
        channels: of each latent tensor.
        num_classes: number of classes; None is the standard normal, which ignores labels.
    """

    def __init__(self, channels: Sequence[int], num_classes: int | None = None):
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'num_classes={num_classes} must be a positive integer, or None for no classes')
        self.channels, self.num_classes = tuple(channels), num_classes
        if num_classes is not None:
            self.mean = nn.Parameter(torch.zeros(num_classes, sum(channels)))
            self.log_scale = nn.Parameter(torch.zeros(num_classes, sum(channels)))

    def log_prob(self, latents: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """log p(z | labels) in nats, (B,).

        Args:
            latents: tensors (B, C_k, H_k, W_k).
            labels: (B,) integers; a prior with classes needs them.
        """
        total = 0
        for z, (mean, log_scale) in zip(latents, self._parameters_of(labels), strict=True):
            squares = ((z - mean) * torch.exp(-log_scale)).square() / 2 + log_scale + math.log(2 * math.pi) / 2
            total = total - squares.flatten(1).sum(1)
        return total

    def sample(
        self, shapes: Sequence[Sequence[int]], labels: Tensor | None, temperature: float, generator: torch.Generator
    ) -> list[Tensor]:
        """``m + temperature a n`` with n standard normal, drawn on the CPU, in the given shapes (B, C_k, H_k, W_k)."""
        return [
            mean + temperature * torch.exp(log_scale) * torch.randn(tuple(shape), generator=generator).to(mean)
            for shape, (mean, log_scale) in zip(shapes, self._parameters_of(labels), strict=True)
        ]

    def _parameters_of(self, labels: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """(mean, log scale) of each latent tensor, in a shape that broadcasts with it."""
        if self.num_classes is None:
            zero = torch.zeros(())
            return [(zero, zero)] * len(self.channels)
        if labels is None:
            raise ValueError(f'the prior has num_classes={self.num_classes} and needs the labels of the images')
        if not ((labels >= 0) & (labels < self.num_classes)).all():
            raise ValueError(
                f'got labels from {int(labels.min())} to {int(labels.max())}; those of the prior are 0 to '
                f'{self.num_classes - 1}'
            )
        parts = [p[labels][:, :, None, None].split(self.channels, 1) for p in (self.mean, self.log_scale)]
        return list(zip(*parts, strict=True))
