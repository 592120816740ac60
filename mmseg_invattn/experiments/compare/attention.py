"""Measurements on the attention blocks of a trained model, at the features of real images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from mmcv.cnn import NonLocal2d
from mmseg.models.decode_heads.da_head import CAM, PAM
from torch import Tensor, nn

from ...layers import (
    FORMS,
    ConditionalAttention2d,
    InvChannelAttention,
    InvertibleModule,
    InvRelativeAttention2d,
    ResidualLayer,
)
from ...layers.orthogonal import rotate
from ...models.recorded_inputs import recorded_inputs
from ...ops import local_lipschitz

# Side of the middle part of a feature map on which the local constant is measured. It is limited, because the power
# iteration keeps N x N maps for its derivatives.
SIDE = 32
Tokens = Callable[[Tensor], Tensor]


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every attention block, invertible or not, by the name of its module."""
    kinds = (*FORMS.values(), InvChannelAttention, InvRelativeAttention2d, NonLocal2d, PAM, CAM)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def measure_attention(model: nn.Module, batches: Iterable[dict]) -> dict[str, dict]:
    """Run batches through the model and measure every attention block at its input.

    Args:
        model: the model in evaluation mode.
        batches: batches of the data loader.

    Returns:
        Name of the block -> ``bound`` (certified; None without a certificate), ``local_lipschitz`` (the largest over
        the images, of the map ``y - x``; None where it overflows), ``saturation`` (mean share of clipped tokens; None
        in forms without a ball), ``tokens`` (of a whole feature map), ``share`` (see :func:`attention_share`),
        ``invertible``.
    """

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                model.test_step(batch)

    blocks, seen = blocks_of(model), {}
    for name, _, x in recorded_inputs(blocks.items(), run):
        seen.setdefault(name, []).append(x.detach())
    return {name: _measure(blocks[name], features) for name, features in seen.items()}


def _measure(block: nn.Module, features: list[Tensor]) -> dict:
    tokens = features[0].shape[2] * features[0].shape[3]
    bound = saturation = None
    if isinstance(block, ResidualLayer):
        bound = block.lipschitz_bound(tokens)
    if hasattr(block, 'saturation'):
        saturation = float(torch.cat([block.saturation(x) for x in features]).mean())
    steep = torch.cat([_steepness(block, _middle(x)) for x in features])
    return dict(
        bound=bound,
        local_lipschitz=float(steep.max()) if steep.isfinite().all() else None,
        saturation=saturation,
        tokens=tokens,
        share=float(torch.cat([attention_share(block, x) for x in features]).median()),
        invertible=isinstance(block, InvertibleModule),
    )


@torch.no_grad()
def attention_share(block: nn.Module, x: Tensor) -> Tensor:
    """``|y_i - x_i| / |x_i|`` of every token i, shape (B N,): how far attention moves it.

    x_i is the output that the block would have if its attention were zero: the input, multiplied by the orthogonal mix
    of a block that has one, and with its halves swapped in the conditional form.
    """
    untouched = x
    if isinstance(block, ConditionalAttention2d):
        untouched = torch.cat(x.chunk(2, 1)[::-1], 1)
    elif isinstance(block, ResidualLayer):
        untouched = rotate(x, block.rotation(block.weights()))
    size = x.norm(dim=1)
    moved = (block(x) - untouched).norm(dim=1)
    return (moved / size.clamp(min=torch.finfo(size.dtype).tiny)).flatten()


def _steepness(block: nn.Module, x: Tensor) -> Tensor:
    """Measured lower bound of the Lipschitz constant of ``y - x`` at x, shape (B,)."""
    if hasattr(block, 'local_lipschitz'):
        return block.local_lipschitz(x)
    tokens: Tokens = (lambda t: t.flatten(2)) if isinstance(block, CAM) else (lambda t: t.flatten(2).mT)
    return local_lipschitz(lambda x: block(x) - x, x, tokens)


def _middle(x: Tensor) -> Tensor:
    for dim in (2, 3):
        side = min(SIDE, x.shape[dim])
        x = x.narrow(dim, (x.shape[dim] - side) // 2, side)
    return x.contiguous()
