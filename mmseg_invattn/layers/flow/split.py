"""Multi-scale split: part of the channels leaves the sequence and becomes an output of the network."""

import torch
from torch import Tensor

from ..explicit import Accuracy, ExplicitInverse, nothing_lost


class Split(ExplicitInverse):
    """``x -> (trunk, latent)``: the first ``keep`` channels go to the next layer, the others are an output.

    The inverse concatenates both, without any error. In an
    :class:`~mmseg_invattn.layers.InvertibleSequential` the next layer reads the trunk, and the sequence returns
    (trunk, latent of the first split, latent of the second, ...). The log-determinant is 0.

    Args:
        channels: C, at least 2.
        keep: channels of the trunk, from 1 to C - 1; ``C // 2`` by default.
    """

    channels: int
    extra_outputs = 1

    def __init__(self, channels: int, keep: int | None = None):
        super().__init__()
        if channels < 2:
            raise ValueError(f'channels={channels} cannot be split in two: Split takes at least 2')
        keep = channels // 2 if keep is None else keep
        if not 0 < keep < channels:
            raise ValueError(f'keep={keep} leaves an empty part of channels={channels}: choose 1 to {channels - 1}')
        self.channels, self.keep = channels, keep

    def transform(self, x: Tensor, weights: tuple) -> tuple[Tensor, Tensor]:
        return x[:, : self.keep].contiguous(), x[:, self.keep :].contiguous()

    def solve(self, y: tuple[Tensor, Tensor], weights: tuple) -> Tensor:
        trunk, latent = y
        rest = self.channels - self.keep
        if trunk.shape[1] != self.keep or latent.shape != (len(trunk), rest, *trunk.shape[2:]):
            raise ValueError(
                f'got a trunk of shape {tuple(trunk.shape)} and a latent of shape {tuple(latent.shape)}; '
                f'the inverse of Split({self.channels}, keep={self.keep}) takes (B, {self.keep}, H, W) '
                f'and (B, {rest}, H, W) as forward returned them'
            )
        return torch.cat((trunk, latent.to(trunk.dtype)), 1)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        return nothing_lost(x, torch.cat(stored, 1))

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        # a pixel of x consists of a pixel of the trunk and one of the latent, each with an error of at most e
        return 1.0, 2**0.5

    def extra_repr(self) -> str:
        return f'{self.channels}, keep={self.keep}'
