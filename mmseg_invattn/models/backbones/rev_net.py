"""RevNet (Gomez et al., https://arxiv.org/abs/1707.04585) with attention, as a backbone.

    y1 = x1 + F(x2),    y2 = x2 + G(y1)          inverse    x2 = y2 - G(y1),    x1 = y1 - F(x2)

F and G are ordinary residual branches, of convolutions or of attention. The numbers of the streams are rounded to a
grid (:mod:`mmseg_invattn.layers.flow.grid`), so the inverse is exact to the last bit. The log-determinant is 0.
"""

from collections.abc import Sequence

from mmseg.registry import MODELS

from ...layers import CouplingAttention2d, InvertibleModule, ToGrid
from ...layers.checks import check_kernel_sizes
from ...wording import counted
from .coupling_blocks import coupled_attention, coupling_blocks
from .invertible_backbone import build_attention, check_attention, per_stage, preset
from .multi_scale_backbone import MultiScaleBackbone

# Blocks as in the ResNet of that depth, and hidden channels for about the same number of parameters.
PRESETS = {
    '18': dict(stage_blocks=(2, 2, 2, 2), hidden_channels=(72, 144, 288, 576), kernel_sizes=(3, 3)),
    '50': dict(stage_blocks=(3, 4, 6, 3), hidden_channels=(64, 128, 256, 512), kernel_sizes=(1, 3, 1)),
}


@MODELS.register_module()
class RevNet2d(MultiScaleBackbone):
    """Coupling blocks of unconstrained residual branches: exactly invertible, without any Lipschitz bound.

    A stage consists of space to depth, coupling blocks, and for the chosen stages a coupling block of attention.

    With the default strides and out indices the features have 24, 48, 96 and 384 channels at strides 4, 8, 16 and 32.

    The inverse is exact, and ``info.error_bound`` holds, if F and G return the same numbers as in the forward pass.
    That is so for the same batch of features and the same kernels. With another batch size, on another device or with
    other settings, sums are computed in another order, so some numbers round to the next step of the grid, and the
    effect of this in F and G is not bounded.

    Args:
        depth: ``'18'`` or ``'50'``: blocks per stage as in the ResNet of that depth, and about as many parameters.
        in_channels: channels of the image.
        strides: of each stage, relative to the previous stage; (4, 2, 1, 1) has stride 8 in the end.
        out_indices: stages with an output, including the last one; see :mod:`.multi_scale_backbone`.
        attention: arguments of ``CouplingAttention2d``, without ``in_channels``.
        attention_stages: stages that end with this attention.
        memory_free: recover the activations in training instead of storing them.
        stage_blocks: coupling blocks (of two branches) of each stage; by default set by the depth.
        hidden_channels: channels between the convolutions of a branch, for each stage; by default set by the depth.
        kernel_sizes: odd sizes of the convolutions of a branch; by default set by the depth.
        init_cfg: as in every ``BaseModule``.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        depth: int | str = '18',
        in_channels: int = 3,
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        attention: dict | None = None,
        attention_stages: Sequence[int] = (),
        memory_free: bool = True,
        stage_blocks: Sequence[int] | None = None,
        hidden_channels: Sequence[int] | None = None,
        kernel_sizes: Sequence[int] | None = None,
        init_cfg: dict | None = None,
    ):
        sizes = preset(depth, PRESETS)
        blocks = per_stage('stage_blocks', stage_blocks, sizes['stage_blocks'], strides)
        hidden = per_stage('hidden_channels', hidden_channels, sizes['hidden_channels'], strides)
        kernels = tuple(kernel_sizes or sizes['kernel_sizes'])
        check_kernel_sizes(kernels)
        check_attention(attention, attention_stages, strides)

        def stage(i: int, channels: int, splits: bool) -> list[InvertibleModule]:
            half, rest = channels // 2, channels - channels // 2
            if half != rest:
                raise ValueError(
                    f'stage {i} has {counted(channels, "channel")}, which cannot be split into halves: choose '
                    f'in_channels={in_channels} or strides={tuple(strides)} so that every stage has an even number'
                )
            layers = coupling_blocks(channels, blocks[i], hidden[i], kernels)
            return layers + (attention_block(attention or {}, channels) if i in attention_stages else [])

        super().__init__(stage, in_channels, strides, out_indices, memory_free, init_cfg, stem=[ToGrid()])


def attention_block(attention: dict, channels: int) -> list[InvertibleModule]:
    """A coupling block of attention.

    Raises:
        ValueError: the attention does not have the form ``'coupling'``.
    """
    layer = build_attention(dict(form='coupling') | attention, channels)
    if not isinstance(layer, CouplingAttention2d):
        raise ValueError(
            f"attention={attention} does not have form='coupling', the only one that RevNet2d can use: choose it, "
            'or InvResNet for the other forms'
        )
    return coupled_attention(layer, channels)
