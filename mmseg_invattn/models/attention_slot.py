"""A place for attention in a network: the attention, the gains of the channels that it sees, and its inversion."""
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import InverseInfo, InvertibleModule, InvertibleSequential, InvNonLocal2d
from ..layers.spec import check_count


class AttentionInverse(NamedTuple):
    """An attention block run forward and back.

    Attributes:
        seen: what the attention saw, shape (B, C, H, W).
        recovered: what its inverse made of its output, same shape.
        info: the solver's report.
    """
    seen: Tensor
    recovered: Tensor
    info: InverseInfo


class AttentionSlot(nn.Module):
    """Mixin: ``y = d^-1 attention(d x)``, with a learned gain d for each channel.

    Half of the channels start loud (``d = spread``), half quiet (``1 / spread``). A contraction moves no feature by
    more than a share of the largest token. Against loud channels that share is faint, in quiet ones it is plain to see;
    without gains the branch is a faint addition everywhere, and takes many times as long to learn. Certificate and
    error bounds are those of the attention, for the features ``d x`` that it sees.

    Attributes:
        attention: the block, or several in a row.
        log_gain: ``log d``, shape (C,), or None where there are no gains.
    """

    def fill_slot(self, channels: int, attention: Mapping | Sequence[Mapping] | None, spread: float,
                  num_blocks: int) -> None:
        """Builds the attention of so many channels; arguments as in :func:`build_attention`.

        Args:
            spread: start of the gains, at least 1; with 1, and for attention without an inverse, there are none.
        """
        if not 1 <= spread < math.inf:
            raise ValueError(f'spread={spread} is not a number from 1: loud channels are multiplied by it and quiet '
                             'ones divided; the certified form learns well with 20, 1 switches it off')
        self.attention = build_attention(channels, attention, num_blocks)
        self.log_gain = None
        if spread > 1 and has_inverse(self.attention):
            loud = torch.arange(channels) % 2 == 0
            self.log_gain = nn.Parameter(torch.where(loud, 1.0, -1.0) * math.log(spread))

    def attend(self, x: Tensor) -> Tensor:
        """y of x, both of shape (B, C, H, W)."""
        gain = self._gain()
        return self.attention(x * gain) / gain

    def invert(self, x: Tensor, tol: float, max_iter: int, strict: bool) -> AttentionInverse:
        """Runs x through the attention and back; what it sees is ``d x``."""
        return forward_and_back(self.attention, x * self._gain(), tol, max_iter, strict)

    def _gain(self) -> Tensor | float:
        """d, shape (C, 1, 1)."""
        return 1.0 if self.log_gain is None else self.log_gain.exp()[:, None, None]


def build_attention(channels: int, attention: Mapping | Sequence[Mapping] | None, num_blocks: int = 1) -> nn.Module:
    """Attention of so many channels.

    Args:
        channels: C, the ``in_channels`` of every block.
        attention: config of a block, without ``in_channels``; without ``type`` it is ``InvNonLocal2d``, and
            ``form='none'`` is the ordinary non-local block. A list: these blocks, one after the other.
        num_blocks: repeats an ``InvNonLocal2d`` so many times with orthogonal 1x1 convolutions between
            (:class:`~mmseg_invattn.layers.InvAttentionStack`), without them under ``form='none'``.

    Raises:
        ValueError: an argument breaks its rule.
    """
    check_count('num_blocks', num_blocks)
    listed = isinstance(attention, Sequence)
    configs = [dict(type='InvNonLocal2d') | dict(config or {}) for config in (attention if listed else [attention])]
    if not configs:
        raise ValueError('attention=[] holds no block: give at least one config, such as dict(form=\'certified\')')
    if num_blocks > 1:
        if listed or configs[0]['type'] not in ('InvNonLocal2d', InvNonLocal2d):
            raise ValueError(f'num_blocks={num_blocks} repeats one InvNonLocal2d, and attention={attention!r} is '
                             'something else: leave num_blocks out and list the blocks')
        if configs[0].get('form') != 'none':
            del configs[0]['type']
            configs = [dict(type='InvAttentionStack', num_blocks=num_blocks, block=configs[0])]
        else:
            configs *= num_blocks
    blocks = [MODELS.build(dict(in_channels=channels) | config) for config in configs]
    if len(blocks) == 1:
        return blocks[0]
    return InvertibleSequential(*blocks) if all(map(has_inverse, blocks)) else nn.Sequential(*blocks)


def has_inverse(attention: nn.Module) -> bool:
    return isinstance(attention, InvertibleModule) and getattr(attention, 'form', None) != 'none'


@torch.no_grad()
def forward_and_back(attention: nn.Module, seen: Tensor, tol: float, max_iter: int, strict: bool) -> AttentionInverse:
    """Runs features through an attention and back.

    Args:
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as are ``max_iter`` and ``strict``.

    Raises:
        TypeError: the attention has no inverse.
        NotConvergedError: as ``inverse`` does.
    """
    if not has_inverse(attention):
        raise TypeError(f'form=\'none\' has no inverse (the attention is a {type(attention).__name__}): build it with '
                        'form=\'certified\', \'conditional\', \'coupling\' or \'paper\'')
    recovered, info = attention.inverse(attention(seen), tol, max_iter, strict)
    return AttentionInverse(seen, recovered, info)
