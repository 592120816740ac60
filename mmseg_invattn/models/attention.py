"""Attention in a network: built from its config, and run forward and back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import FORMS, InverseInfo, InvertibleModule, InvertibleSequential, OrthogonalConv1x1
from ..layers.checks import check_choice, check_count


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


def build_attention(channels: int, attention: Mapping | Sequence[Mapping] | None, num_blocks: int = 1) -> nn.Module:
    """Attention of so many channels.

    Args:
        channels: C, the ``in_channels`` of every block.
        attention: config of a block, without ``in_channels``: ``dict(form='certified', mode=...)`` with the arguments
            of the form's class (:data:`~mmseg_invattn.layers.FORMS`; ``'certified'`` where no form is given, ``'none'``
            is the ordinary non-local block), or ``dict(type=...)`` of another registered layer. A list: these blocks,
            one after the other.
        num_blocks: repeats the block so many times, with orthogonal 1x1 convolutions between those that are invertible;
            0: no attention, the control.

    Raises:
        ValueError: an argument breaks its rule.
        TypeError: an argument that the block does not take.
    """
    if num_blocks == 0:
        return nn.Identity()
    check_count('num_blocks', num_blocks)
    listed = isinstance(attention, Sequence) and not isinstance(attention, str)
    if not listed and not isinstance(attention, Mapping | None):
        raise TypeError(
            f"attention={attention!r} is neither a config nor a list of configs: write attention=dict(form='certified')"
        )
    if listed and num_blocks > 1:
        raise ValueError(
            f'num_blocks={num_blocks} repeats one block, and attention={attention!r} is a list: leave '
            'num_blocks out and list the blocks'
        )
    if listed and not attention:
        raise ValueError("attention=[] holds no block: give at least one config, such as dict(form='certified')")
    blocks = [_build_block(channels, config) for config in (attention if listed else [attention] * num_blocks)]
    if len(blocks) == 1:
        return blocks[0]
    if not all(isinstance(block, InvertibleModule) for block in blocks):
        return nn.Sequential(*blocks)
    if not listed:
        blocks = [layer for block in blocks for layer in (block, OrthogonalConv1x1(channels))][:-1]
    return InvertibleSequential(*blocks)


def _build_block(channels: int, config: Mapping | None) -> nn.Module:
    if not isinstance(config, Mapping | None):
        raise TypeError(f"attention lists {config!r}, which is no config: write dict(form='certified')")
    config = dict(config or {})
    if 'type' in config:
        return MODELS.build(dict(in_channels=channels) | config)
    form = config.pop('form', 'certified')
    check_choice('form', form, FORMS)
    return FORMS[form](channels, **config)


@torch.no_grad()
def forward_and_back(attention: nn.Module, seen: Tensor, tol: float, max_iter: int, strict: bool) -> AttentionInverse:
    """Runs features through an attention and back.

    Args:
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as are ``max_iter`` and ``strict``.

    Raises:
        TypeError: the attention has no inverse.
        NotConvergedError: as ``inverse`` does.
    """
    if not isinstance(attention, InvertibleModule):
        raise TypeError(
            f"{type(attention).__name__} has no inverse: build the attention with form='certified', "
            "'conditional', 'coupling' or 'paper'"
        )
    recovered, info = attention.inverse(attention(seen), tol, max_iter, strict)
    return AttentionInverse(seen, recovered, info)
