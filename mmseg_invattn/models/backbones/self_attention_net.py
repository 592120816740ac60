"""The full-attention network of Cordonnier et al., https://arxiv.org/abs/1911.03584: no convolutions except on patches.

Patches become channels (space to depth) and are mapped linearly. Then every layer is as in BERT, with the normalisation
after the sum:

    x <- LN(x + W a(x)),    x <- LN(x + W_2 gelu(W_1 x))

with a the relative self-attention.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...layers import RelativeSelfAttention2d, Squeeze
from ...layers.checks import check_count


class SelfAttentionLayer(nn.Module):
    """One layer, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int, feedforward_channels: int, dropout: float, attention: Mapping):
        super().__init__()
        self.attention = RelativeSelfAttention2d(channels, num_heads=num_heads, **attention)
        self.project = nn.Linear(channels, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, feedforward_channels), nn.Linear(feedforward_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed_BHWC = self.attention(x).permute(0, 2, 3, 1)
        x_BHWC = self.norm1(x.permute(0, 2, 3, 1) + self.dropout(self.project(mixed_BHWC)))
        x_BHWC = self.norm2(x_BHWC + self.dropout(self.down(F.gelu(self.up(x_BHWC)))))
        return x_BHWC.permute(0, 3, 1, 2)


@MODELS.register_module()
class SelfAttentionNet(BaseModule):
    """Self-attention on patches, as a backbone with one feature map for each out index.

    Args:
        in_channels: channels of the image.
        patch_size: side of a patch in pixels; height and width of images must be multiples of it.
        channels: of every layer.
        num_layers: number of layers.
        num_heads: heads of every layer, or a number for each layer.
        feedforward_channels: channels between the two linear maps after the attention.
        attention: further arguments of :class:`~mmseg_invattn.layers.RelativeSelfAttention2d`. With a ``window``, every
            second layer shifts the windows by half their size.
        pool_after: layers, counted from 0, after which 2 x 2 pixels are averaged.
        out_indices: layers with an output, including the last one. Outputs are taken before the pooling.
        dropout: probability for the two terms that a layer adds to x, in training; that of the weights P is
            ``attention.dropout``.
        init_cfg: as in every ``BaseModule``.

    Attributes:
        out_strides: stride of each output, in pixels of the image.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        in_channels: int = 3,
        patch_size: int = 2,
        channels: int = 400,
        num_layers: int = 6,
        num_heads: int | Sequence[int] = 9,
        feedforward_channels: int = 512,
        attention: Mapping | None = None,
        pool_after: Sequence[int] = (),
        out_indices: Sequence[int] = (5,),
        dropout: float = 0.1,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        for name, value in (
            ('in_channels', in_channels),
            ('channels', channels),
            ('num_layers', num_layers),
            ('feedforward_channels', feedforward_channels),
        ):
            check_count(name, value)
        last, indices = num_layers - 1, list(out_indices)
        if not indices or sorted(set(indices)) != indices or indices[0] < 0 or indices[-1] != last:
            raise ValueError(
                f'out_indices={tuple(out_indices)} must be layers from 0 to {last} in increasing order that end '
                f'with {last}: layers after the last output would not be trained'
            )
        if any(index not in range(last) for index in pool_after):
            raise ValueError(
                f'pool_after={tuple(pool_after)} must be layers from 0 to {last - 1}: no layer follows the last one'
            )
        heads = [num_heads] * num_layers if isinstance(num_heads, int) else list(num_heads)
        if len(heads) != num_layers:
            raise ValueError(
                f'num_heads={tuple(heads)} has {len(heads)} numbers for num_layers={num_layers}: give one per layer'
            )
        attention = dict(attention or {})
        self.pool_after, self.out_indices = tuple(pool_after), tuple(indices)
        self.squeeze = Squeeze(patch_size)
        self.embed = nn.Conv2d(in_channels * patch_size**2, channels, 1)
        shifts = [attention.get('window_shift', 0), (attention.get('window') or 0) // 2]
        self.layers = nn.ModuleList(
            SelfAttentionLayer(
                channels, heads[i], feedforward_channels, dropout, dict(attention, window_shift=shifts[i % 2])
            )
            for i in range(num_layers)
        )
        strides = [patch_size * 2 ** sum(index < i for index in self.pool_after) for i in range(num_layers)]
        self.out_strides = tuple(strides[i] for i in self.out_indices)

    def init_weights(self) -> None:
        """Linear maps start from N(0, 0.4^2 / channels) and biases from 0; encodings and norms are not changed.

        For 400 channels this is N(0, 0.02^2), as in BERT and as published.
        """
        std = 0.4 * self.embed.out_channels**-0.5
        for module in () if self.is_init else self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RelativeSelfAttention2d):
                nn.init.normal_(module.weight, std=std)
        super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, in_channels, H, W) -> (B, channels, H / s, W / s) for each out index, s its out stride.

        Raises:
            ValueError: height or width is not a multiple of the patch size.
        """
        x, outputs = self.embed(self.squeeze(x)), []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                outputs.append(x.contiguous())
            if i in self.pool_after:
                x = F.avg_pool2d(x, 2)
        return tuple(outputs)
