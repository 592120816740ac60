"""Gaussian: ``P_ij = softmax_j(t x_i . x_j + beta_ij)``, without projections.

Wang et al., Non-local Neural Networks, https://arxiv.org/abs/1711.07971. On the ball of radius R: the effective score
matrix is t times the identity, so ``s = t R^2`` and ``Lambda = s + sqrt(1 + s^2)``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ....ops import Roundoff
from .base import Mode, Norm, ScoreBounds, ScoreGradients, inner_rounding
from .embedded_gaussian import softmax_factor


class Temperature(NamedTuple):
    """The number of groups G, and t, shape (G,) or (); None means 1."""

    groups: int
    temperature: Tensor | None = None

    def swapped(self) -> 'Temperature':
        """The scores are symmetric."""
        return self


class Gaussian(Mode):
    """Softmax of the inner products of the tokens themselves.

    Args:
        channels: C, channels of a token.
        inter_channels: without effect, because there are no projections.
        groups: G, heads; they differ by their values, and by their sharpness if it is learned.
        bias: without effect.
        key_bias: without effect.
    """

    paper_coefficients: dict[str, float] = {}
    mmcv_scales = False

    def __init__(
        self, channels: int, inter_channels: int, groups: int = 1, bias: bool = True, key_bias: bool | None = None
    ):
        super().__init__()
        self.groups, self.channels = groups, channels

    def forward(self, scaled: bool = True) -> Temperature:
        """``t = 1 / sqrt(C)``, or 1 as in mmcv and in the paper.

        With t = 1 every pixel attends mainly to itself, because ``|x|^2`` of ordinary features is about C.
        """
        # a tensor without dimensions can be combined with tensors on any device
        return Temperature(self.groups, torch.tensor(self.channels**-0.5) if scaled else None)

    @staticmethod
    def scaled(weights: Temperature, temperature: Tensor) -> Temperature:
        t = temperature if weights.temperature is None else weights.temperature * temperature
        return weights._replace(temperature=t)

    @staticmethod
    def bounds(
        weights: Temperature, norm: Norm, radius: float | Tensor = 1.0, product: Tensor | None = None
    ) -> ScoreBounds:
        # a tensor without dimensions can be combined with tensors on any device
        peak = (torch.ones(()) if weights.temperature is None else weights.temperature.abs()) * radius**2
        return ScoreBounds(peak, peak, peak)

    @staticmethod
    def lipschitz_factor(bounds: ScoreBounds, n_pixels: int | None = None) -> Tensor:
        return softmax_factor(bounds)

    @staticmethod
    def project(weights: Temperature, queries_BGNC: Tensor, keys_BGMC: Tensor) -> tuple[Tensor, Tensor]:
        return _scale(queries_BGNC, weights), keys_BGMC

    @staticmethod
    def score_gradients(weights: Temperature, tokens_BGNC: Tensor) -> ScoreGradients:
        scaled = _scale(tokens_BGNC, weights)
        return ScoreGradients(scaled, scaled)

    @classmethod
    def rounding(cls, weights: Temperature, tokens_BGNC: Tensor, reach_BG: Tensor, u: Roundoff) -> Tensor:
        q, k = cls.project(weights, tokens_BGNC, tokens_BGNC)
        t = 1.0 if weights.temperature is None else weights.temperature.abs()
        return inner_rounding(q, k, t * reach_BG, reach_BG, u)


def _scale(tokens_BGNC: Tensor, weights: Temperature) -> Tensor:
    """Tokens times t, for every group; a single group of tokens is used for all groups."""
    if weights.temperature is None:
        return tokens_BGNC.expand(-1, weights.groups, -1, -1)
    t = weights.temperature
    scaled = tokens_BGNC * (t[:, None, None] if t.dim() else t)
    return scaled.expand(-1, weights.groups, -1, -1)
