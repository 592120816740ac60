"""What is known about a certified branch around given features: its local Lipschitz constant and its rounding.

    g_i = sum_j P_ij W b_j + bias,      W = W_O W_V times gain and scale,      b = B((x - m) / a)

Local Lipschitz constant: with the moments of :mod:`.local_bound` for the values W b, ``|dg| <= Lambda_loc max_j
|db_j|``. B shrinks distances: ``|db_j| <= |dx_j| / sqrt(a^2 + |x_j - m|^2)``, for which the smallest ``|x_j - m|`` is
taken.

Rounding, with u the unit roundoff of sums and w that of casts, has three parts. The relative error of b is
``r = u (4 + log_2(C) |b|^2 / 2)``, from a difference, a sum of squares, a root and two products; it contributes
``Lip(g) |b| r``. The steps after it are as in :mod:`.rounding`. The last sum contributes ``(u + w) (|g| + |bias|)``.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...ops import Roundoff, ball_rounding, root_of_squares, spectral_norm_bound
from .local_bound import attention_moments, local_bound
from .rounding import attention_rounding

if TYPE_CHECKING:
    from .certified import CertifiedAttention2d, SizedWeights

NEAR = 2.0**-14  # relative to the size of the features, in the ball: the reach that is usually enough


class Errors(NamedTuple):
    """Rounding of g for tokens within a reach of the given ones.

    Attributes:
        reach: the reach, measured in the ball, (B, G).
        tokens: rounding of b, in the units of x; to be multiplied by the Lipschitz constant of g, (B, G).
        others: rounding of all steps after it, (B, G).
    """

    reach: Tensor
    tokens: Tensor
    others: Tensor


class Seen:
    """A certified branch at given tokens.

    Args:
        block: the layer.
        tokens_BGNC: tokens of the features, float64.
        weights: the numbers of the forward pass, float64.
        u: the rounding errors of the forward pass.
    """

    def __init__(self, block: 'CertifiedAttention2d', tokens_BGNC: Tensor, weights: 'SizedWeights', u: Roundoff):
        b_BGNC = weights.norm.bounded(tokens_BGNC)
        self.attention, self.heads, self.weights, self.u = block.attention, block.heads, weights, u
        self.tokens = b_BGNC
        self.moments = attention_moments(
            block.attention, weights.scores, b_BGNC, weights.size, weights.beta, weights.value, weights.out, narrow=True
        )
        self.effective = spectral_norm_bound(weights.out, weights.value)
        self.scale_G = weights.norm.scale[:, 0, 0]
        bounds = block.attention.mode.bounds(weights.scores, spectral_norm_bound, torch.ones_like(b_BGNC[:, :1, 0, 0]))
        self.slope_BH = torch.maximum(bounds.query_slope, bounds.key_slope).expand(-1, len(weights.value))
        self.nearest_BG = torch.linalg.vector_norm(weights.norm.centred(tokens_BGNC), dim=-1).amin(-1)
        self.radius_BG = torch.linalg.vector_norm(b_BGNC, dim=-1).amax(-1)
        # rounding errors are proportional to the features, not to their distance from m
        size_BG = torch.linalg.vector_norm(tokens_BGNC, dim=-1).amax(-1) / self.scale_G
        self.errors = self._errors(NEAR * (size_BG + self.radius_BG))

    def lipschitz(self, reach: Tensor) -> Tensor:
        """Bound of the Lipschitz constant of g as a function of x, within a reach in x, (B,) -> (B,)."""
        shrink_BG = torch.hypot(self.scale_G, (self.nearest_BG - reach[:, None]).clamp(min=0)).reciprocal()
        reach_BH = (reach[:, None] / self.scale_G).expand_as(self.slope_BH)
        local_BH = local_bound(self.moments, self.effective, self.slope_BH, reach_BH).amax(-1)
        return self.heads.total(local_BH * shrink_BG).amax(1)

    def rounding(self, size: Tensor, reach: Tensor, lipschitz: Tensor) -> Tensor:
        """Bound of the rounding error of g within the reach, (B,).

        Args:
            size: largest ``|g|`` of a token, (B,).
            reach: in x, (B,).
            lipschitz: bound of the Lipschitz constant of g as a function of x within the reach, (B,).
        """
        reach_BG = reach[:, None] / self.scale_G
        if bool((reach_BG.clamp(max=2.0) > self.errors.reach).any()):  # too far: once more, with a margin
            self.errors = self._errors(torch.maximum(2 * reach_BG, self.errors.reach))
        tokens, others = self.errors.tokens, self.errors.others
        bias = 0 if self.weights.bias is None else torch.linalg.vector_norm(self.weights.bias, dim=-1)
        last = self.u.any * (size[:, None] + 2 * bias + (lipschitz * reach)[:, None])
        return (root_of_squares(others, tokens * lipschitz[:, None]) + last).amax(1)

    def _errors(self, reach_BG: Tensor) -> Errors:
        """Rounding for tokens at most ``reach_BG`` from the given ones."""
        w, u, channels = self.weights, self.u, self.weights.value.shape[-1]
        reach_BG = reach_BG.clamp(max=2.0)  # two tokens in the ball are at most 2 apart
        radius_BG = (self.radius_BG + reach_BG).clamp(max=1)
        others = attention_rounding(
            self.attention, w.scores, w.value, w.out, self.tokens, self.moments, reach_BG, w.size, w.beta, u
        )
        tokens = ball_rounding(channels, radius_BG, u.sums) * radius_BG * self.scale_G
        return Errors(reach_BG, tokens, self.heads.total(others))
