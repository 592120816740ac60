"""Statistics of where the heads of a network with relative self-attention look.

Heads without content are measured at the centre of a map so large that its border has no effect. Heads with content are
measured on the given images, at up to 64 queries of each.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers import RelativeSelfAttention2d
from ...layers.convolution.conversion import offset_weights
from ...layers.convolution.statistics import HeadStatistics, head_statistics
from ...models.recorded_inputs import recorded_inputs
from ...ops.attention import pixel_grid

QUERIES = 64


@dataclass(frozen=True)
class AttentionLayer:
    """A layer and its input: features (B, C, H, W)."""

    name: str
    module: RelativeSelfAttention2d
    x: Tensor


@torch.no_grad()
def seen_layers(model: nn.Module, images: Tensor) -> list[AttentionLayer]:
    """The layers of a model in the order in which they run, with their inputs for a batch.

    Args:
        model: the model in evaluation mode.
        images: input of the backbone.

    Raises:
        ValueError: the model has no such layer.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, RelativeSelfAttention2d)]
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no RelativeSelfAttention2d, the only layer that this tool shows: give a '
            'checkpoint of a model with SelfAttentionNet'
        )
    return [AttentionLayer(*seen) for seen in recorded_inputs(layers, lambda: model.backbone(images))]


@torch.no_grad()
def layer_statistics(layer: AttentionLayer) -> HeadStatistics:
    """Statistics of the heads of a layer."""
    module = layer.module
    if module.content == 'none' and module.window is None:
        reach = module.mixing.encoding.reach
        axis = torch.arange(-reach, reach + 1.0)
        key_M2 = torch.stack(torch.meshgrid(axis, axis, indexing='ij'), -1).flatten(0, 1)
        return head_statistics(offset_weights(module.mixing).cpu().flatten(1)[None, :, None], torch.zeros(1, 2), key_M2)
    size = tuple(layer.x.shape[2:])
    key_M2 = pixel_grid(size, layer.x)
    query_N2 = key_M2.unflatten(0, size)[:: module.stride, :: module.stride].flatten(0, 1)
    queries = torch.linspace(0, len(query_N2) - 1, min(QUERIES, len(query_N2))).round().long()
    p_BGNM = torch.cat([module.attention_probabilities(x[None], queries) for x in layer.x])
    p_BGNM = p_BGNM / p_BGNM.sum(-1, keepdim=True)  # zero padding looks outside the map as well
    return head_statistics(p_BGNM.cpu(), query_N2[queries].cpu(), key_M2.cpu())


def report(layers: list[AttentionLayer]) -> Iterator[dict]:
    """One plain dict for each layer and head, in their order.

    Each has the entries of :class:`.HeadStatistics`. Heads of a quadratic encoding also have ``parameters``: the
    centre, and the standard deviations ``sigma`` of the weights along their two principal axes, in pixels.
    """
    for layer in layers:
        found, module = layer_statistics(layer), layer.module
        encoding = None if module.mixing is None else module.mixing.encoding
        for head in range(module.num_heads):
            row = dict(
                layer=layer.name,
                head=head,
                centre=found.centre[head].tolist(),
                spread=float(found.spread[head]),
                entropy=float(found.entropy[head]),
                tap=found.tap[head].int().tolist(),
                tap_weight=float(found.tap_weight[head]),
            )
            if hasattr(encoding, 'precision'):
                eigenvalues = torch.linalg.eigvalsh(encoding.precision()[head].detach().cpu().double())
                row['parameters'] = dict(
                    centre=encoding.centre[head].tolist(), sigma=eigenvalues.clamp(min=1e-12).rsqrt().flip(0).tolist()
                )
            yield row
