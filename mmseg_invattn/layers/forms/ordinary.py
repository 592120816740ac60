"""Form ``none``: the ordinary non-local block ``y = x + W_O sum_j P_ij W_V x_j``, as mmcv's ``NonLocal2d`` computes it.

The baseline: it has no inverse and no certificate. mmcv's names: theta = query, phi = key, g = value, conv_out = out,
concat_project = join. The dot product and the concatenation are divided by the number of keys there, not by their sum.
"""
import torch
from torch import Tensor, nn

from ...ops import max_token_norm, spectral_norm_bound
from ..attention import Attention
from ..base import branch_steepness, check_features
from ..linear import GroupedLinear
from ..modes.base import as_dtype
from ..spec import AttentionSpec
from .local_bound import local_bound


class OrdinaryBranch(nn.Module):
    """``W_O sum_j P_ij W_V x_j``; heads share the tokens and their outputs add up, as in multi-head attention.

    Args:
        spec: the block; contraction, sharpness and heads are of no effect.
        channels: C of the feature map.
        as_mmcv: mmcv's weights, parameters and start: means instead of row-stochastic weights in the modes without a
            softmax, biases also where they are inert, small projections, and an output of zero so that the block is
            the identity.
    """

    def __init__(self, spec: AttentionSpec, channels: int, as_mmcv: bool):
        super().__init__()
        if as_mmcv:
            refuse_parts(spec)
        inter, heads = max(channels // spec.reduction // spec.num_heads, 1), spec.num_heads
        self.attention = Attention(spec, channels, inter, heads, spec.bias, inert_bias=as_mmcv)
        self.kernel = self.attention.mode.ordinary if as_mmcv else self.attention.mode.attend
        self.value = GroupedLinear(channels, inter, heads, spec.bias and as_mmcv)
        self.out = GroupedLinear(inter, channels, heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels)) if spec.bias else None
        if as_mmcv:
            for module in (*self.attention.mode.children(), self.value):
                nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        x_B1NC = x.flatten(2).mT[:, None]
        mode = self.attention.mode
        mix = self.attention.mixer(mode.weights(), x_B1NC, (x.shape[2], x.shape[3]), self.kernel)
        g_BNC = self.out(mix(self.value(x_B1NC))).sum(1)
        if self.bias is not None:
            g_BNC = g_BNC + self.bias
        return g_BNC.mT.reshape(x.shape)

    @torch.no_grad()
    def difference(self, x: Tensor, distance: Tensor, within: Tensor | float = 0.0) -> Tensor:
        """Bound of ``|A(x'') - A(x')|_inf2`` for ``|x'' - x'|_inf2 <= distance`` and ``|x' - x|_inf2 <= within``, (B,).

        The smallest of three, with row-stochastic weights and the tokens in a ball of radius R: ``sum_h |W_O| |W_V|``
        times the mode's Lambda there and the distance; the same with :func:`~.local_bound.local_bound` for ``|W_V|
        Lambda``; and ``2 R sum_h |W_O| |W_V|``, as far apart as outputs can be however steep A is.
        """
        tokens_B1NC, mode = x.flatten(2).mT[:, None], self.attention.mode
        reach = (distance + within).double()
        radius = (max_token_norm(x) + reach).clamp(min=torch.finfo(x.dtype).tiny)[:, None]
        bounds = mode.bounds(as_dtype(mode.weights(), torch.float64), spectral_norm_bound, radius)
        out, value = spectral_norm_bound(self.out.weight), spectral_norm_bound(self.value.weight)
        slope = torch.maximum(bounds.query_slope, bounds.key_slope) / radius.square()
        local = local_bound(self.attention, tokens_B1NC, self.value(tokens_B1NC), (x.shape[2], x.shape[3]), value,
                            slope, reach)
        ball = value * mode.lipschitz_factor(bounds, self.attention.whole(x[0, 0].numel()))
        steep = torch.minimum((out[:, None] * local).sum(1).amax(1), (out * ball).sum(1))
        return torch.minimum(steep * distance.double(), 2 * (out * value * radius).sum(1)).to(distance.dtype)


class Ordinary(OrdinaryBranch):
    """The non-local block."""

    def __init__(self, spec: AttentionSpec):
        super().__init__(spec, spec.channels, as_mmcv=True)
        self.channels = spec.channels

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.channels)
        return x + super().forward(x).to(x.dtype)

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound of the branch's Lipschitz constant at x, shape (B,)."""
        check_features(x, self.channels)
        return branch_steepness(super().forward, x)


def refuse_parts(spec: AttentionSpec) -> None:
    """Refuses what needs row-stochastic weights where the mode's are not, and parts of the map."""
    if spec.position is not None and not spec.mode_class.softmax:
        raise ValueError(f'position={spec.position!r} adds to the logits of a softmax, and mode={spec.mode!r} has none '
                         'in this form: choose mode=\'gaussian\', \'embedded_gaussian\' or \'l2\', or '
                         'form=\'certified\', \'conditional\' or \'coupling\', where every mode takes it')
    if spec.neighbourhood != 'full':
        raise ValueError(f'neighbourhood={spec.neighbourhood!r} needs form=\'certified\', \'conditional\' or '
                         '\'coupling\': this form attends to the whole map as its source does')
