"""Invertible U-Net (Etmann et al., https://arxiv.org/abs/2005.05220) with attention, as a backbone.

Features at full resolution from which the image comes back, and a training step whose memory does not grow with the
number of blocks. Every stage but the last is an inner network between two skips:

    image -> expand -> stage 0 ->                                       -> stage 0 -> features, (B, C, H, W)
                       half of the channels across                      /
                       half down, 2 x 2 pixels to 4 channels            up
                       -> stage 1 ->         ...           -> stage 1 ->

A stage consists of coupling blocks of convolutions (:mod:`.coupling_blocks`), before and behind the inner network.
Half of C channels become 2 C at half of the resolution. Down- and upsampling are learnable and orthogonal. All numbers
lie on a grid (:mod:`mmseg_invattn.layers.flow.grid`), so the inverse is exact to the last bit, certified attention
included (:mod:`mmseg_invattn.layers.flow.grid_residual`).
"""

from collections.abc import Sequence
from typing import Literal

from mmseg.registry import MODELS
from torch import nn

from ...layers import (
    ChannelExpansion,
    CouplingAttention2d,
    GridDownsample,
    GridResidual,
    GridUpsample,
    InvertibleModule,
    InvertibleSequential,
    InvertibleSkip,
    PaperAttention2d,
    ToGrid,
)
from ...layers.checks import check_count, check_kernel_sizes
from .coupling_blocks import coupled_attention, coupling_blocks
from .invertible_backbone import InvertibleBackbone, build_attention, check_attention, per_stage


@MODELS.register_module()
class InvUNet(InvertibleBackbone):
    """A U-Net that is invertible from end to end, with features at the resolution of the image.

    The features are the last output, (B, base_channels, H, W), which a decode head reads by default. Attention in form
    ``'certified'`` or ``'conditional'`` adds an output of its own before it: the remainder of its rounding to the grid,
    at the resolution of its stage. No head reads it; the inverse needs it.

    The inverse is exact, and ``info.error_bound`` holds, under the conditions of :class:`RevNet2d`. There is a
    log-determinant only if ``base_channels`` equals ``in_channels``.

    Args:
        in_channels: channels of the image.
        base_channels: C, even, channels of the first stage; stage i has ``C 2^i``. A convolution adds the channels
            beyond those of the image.
        num_stages: number of resolutions; height and width of an image have to be multiples of ``2^(num_stages - 1)``.
        stage_blocks: coupling blocks (of two branches) of each stage, on the way down and again on the way up; of the
            last stage once. One number is meant for every stage.
        hidden_channels: channels between the convolutions of a branch, for each stage; by default those of a branch,
            half of the stage's.
        kernel_sizes: odd sizes of the convolutions of a branch.
        attention: config of an attention with an inverse, see :mod:`~mmseg_invattn.models.attention`.
        attention_stages: stages whose way down ends with this attention.
        start: of down- and upsampling, see :class:`~mmseg_invattn.layers.GridDownsample`.
        memory_free: recover the activations in training instead of storing them.
        init_cfg: as in every ``BaseModule``.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        num_stages: int = 5,
        stage_blocks: int | Sequence[int] = 2,
        hidden_channels: Sequence[int] | None = None,
        kernel_sizes: Sequence[int] = (3, 3),
        attention: dict | None = None,
        attention_stages: Sequence[int] = (),
        start: Literal['haar', 'space_to_depth'] = 'haar',
        memory_free: bool = True,
        init_cfg: dict | None = None,
    ):
        for name, count in dict(in_channels=in_channels, base_channels=base_channels, num_stages=num_stages).items():
            check_count(name, count)
        check_kernel_sizes(kernel_sizes)
        if base_channels % 2 or base_channels < max(in_channels, 2):
            raise ValueError(
                f'base_channels={base_channels} must be even, because couplings split the channels into halves, and at '
                f'least in_channels={in_channels}, because the image has to come back: choose '
                f'{max(base_channels + base_channels % 2, in_channels + in_channels % 2, 2)}'
            )
        channels = [base_channels * 2**i for i in range(num_stages)]
        if isinstance(stage_blocks, int):
            stage_blocks = [stage_blocks] * num_stages
        blocks = per_stage('stage_blocks', stage_blocks, (), channels, 'num_stages')
        if not all(isinstance(count, int) and count >= 0 for count in blocks):
            raise ValueError(f'stage_blocks={blocks} must be whole numbers of at least 0')
        hidden = per_stage('hidden_channels', hidden_channels, [c // 2 for c in channels], channels, 'num_stages')
        check_attention(attention, attention_stages, channels)
        remainders: list[int] = []

        def way(i: int) -> list[InvertibleModule]:
            return coupling_blocks(channels[i], blocks[i], hidden[i], kernel_sizes)

        def stage(i: int) -> list[InvertibleModule]:
            """The layers of stage i, with all stages below it."""
            layers = way(i)
            if i in attention_stages and attention is not None:
                attended = attention_block(attention, channels[i])
                remainders.extend([i] * sum(layer.extra_outputs for layer in attended))
                layers += attended
            if i + 1 == num_stages:
                return layers
            half = channels[i] // 2
            inner = InvertibleSequential(GridDownsample(half, start), *stage(i + 1), GridUpsample(half, start))
            return [*layers, InvertibleSkip(channels[i], inner), *way(i)]

        layers: list[InvertibleModule] = [ToGrid()]
        if base_channels > in_channels:
            convolution = nn.Conv2d(in_channels, base_channels - in_channels, 3, padding=1)
            layers.append(ChannelExpansion(in_channels, base_channels, convolution))
        flow = InvertibleSequential(*layers, *stage(0))
        super().__init__(
            flow,
            (*(channels[i] for i in remainders), base_channels),
            (*(2**i for i in remainders), 1),
            2 ** (num_stages - 1),
            memory_free,
            init_cfg,
        )
        self.in_channels = in_channels


def attention_block(attention: dict, channels: int) -> list[InvertibleModule]:
    """Attention between couplings on a grid.

    Raises:
        ValueError: the attention has no inverse or no certificate.
    """
    layer = build_attention(attention, channels)
    if isinstance(layer, CouplingAttention2d):
        return coupled_attention(layer, channels)
    if any(isinstance(part, PaperAttention2d) for part in layer.modules()):
        raise ValueError(
            f'attention={attention} has no certificate, so the image could not be recovered exactly: use '
            "form='certified', 'conditional' or 'coupling'"
        )
    return [GridResidual(layer)]
