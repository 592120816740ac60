"""Attention in a network: building it from a config, and running it forward and back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import FORMS, InverseInfo, InvertibleModule, InvertibleSequential, OrthogonalConv1x1
from ..layers.checks import check_choice, check_count


class AttentionInverse(NamedTuple):
    """The result of running an attention block forward and back.

    Attributes:
        seen: input of the attention, shape (B, C, H, W).
        recovered: the input as recovered by the inverse from the output, same shape.
        info: the report of the inverse.
    """

    seen: Tensor
    recovered: Tensor
    info: InverseInfo


def build_attention(channels: int, attention: Mapping | Sequence[Mapping] | None, num_blocks: int = 1) -> nn.Module:
    """Builds the attention for a number of channels.

    Args:
        channels: C, the ``in_channels`` of every block.
        attention: config of a block, without ``in_channels``: ``dict(form='certified', mode=...)`` with the arguments
            of the form's class (:data:`~mmseg_invattn.layers.FORMS`; the default form is ``'certified'``, and
            ``'none'`` is the ordinary non-local block), or ``dict(type=...)`` of another registered layer. A list gives
            several blocks, applied one after the other.
        num_blocks: how often the block is repeated. Orthogonal 1x1 convolutions are put between invertible blocks. 0
            means no attention, as a control.

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
            f'num_blocks={num_blocks} repeats a single block, but attention={attention!r} is a list: leave '
            'num_blocks out and list all blocks'
        )
    if listed and not attention:
        raise ValueError("attention=[] has no block: give at least one config, such as dict(form='certified')")
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
        raise TypeError(f"attention lists {config!r}, which is not a config: write dict(form='certified')")
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
        attention: the attention layer.
        seen: its input, (B, C, H, W).
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        strict: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.

    Raises:
        TypeError: the attention has no inverse.
        NotConvergedError: with ``strict``, if a sample does not converge.
    """
    if not isinstance(attention, InvertibleModule):
        raise TypeError(
            f"{type(attention).__name__} has no inverse: build the attention with form='certified', "
            "'conditional', 'coupling' or 'paper'"
        )
    recovered, info = attention.inverse(attention(seen), tol, max_iter, strict)
    return AttentionInverse(seen, recovered, info)
