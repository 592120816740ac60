"""i-ResNet (Behrmann et al., https://arxiv.org/abs/1811.00995) with attention, as a backbone."""

from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from torch import nn

from ...layers import ActNorm2d, InvConvResidual, InvertibleModule, OrthogonalConv1x1
from .invertible_backbone import build_attention, check_attention, per_stage, preset
from .multi_scale_backbone import MultiScaleBackbone

# Blocks as in the ResNet of that depth, and hidden channels for about the same number of parameters. Every block can
# enlarge an error of the features by a factor of up to 1 / (1 - contraction), so a deeper network has a smaller
# contraction.
PRESETS = {
    '18': dict(stage_blocks=(2, 2, 2, 2), hidden_channels=(72, 144, 288, 576), kernel_sizes=(3, 1, 3), contraction=0.5),
    '50': dict(stage_blocks=(3, 4, 6, 3), hidden_channels=(88, 176, 352, 704), kernel_sizes=(1, 3, 1), contraction=0.3),
}


@MODELS.register_module()
class InvResNet(MultiScaleBackbone):
    """Residual blocks of convolutions that are contractions by construction, so invertible with a certificate.

    A stage consists of space to depth, then ``x -> actnorm -> x + g(x)`` for each block, then attention for the chosen
    stages. Before a split, an orthogonal 1x1 convolution learns which directions become the output.

    With the default strides and out indices the features have 24, 48, 96 and 384 channels at strides 4, 8, 16 and 32.

    Args:
        depth: ``'18'`` or ``'50'``: blocks per stage as in the ResNet of that depth, and about as many parameters.
        in_channels: channels of the image.
        strides: of each stage, relative to the previous stage; (4, 2, 1, 1) has stride 8 in the end.
        out_indices: stages with an output, including the last one; see :mod:`.multi_scale_backbone`.
        attention: config of an attention with an inverse, see :mod:`~mmseg_invattn.models.attention`.
        attention_stages: stages that end with this attention.
        memory_free: recover the activations in training instead of storing them.
        stage_blocks: residual blocks of each stage; by default set by the depth.
        hidden_channels: channels between the convolutions of a block, for each stage; by default set by the depth.
        kernel_sizes: of the convolutions of a block; by default set by the depth.
        contraction: bound of the Lipschitz constant of every g; 0.5 for 18 and 0.3 for 50 by default.
        activation: ``'LipSwish'`` or ``'ELU'``, as in the published flows.
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
        contraction: float | None = None,
        activation: str = 'LipSwish',
        init_cfg: dict | None = None,
    ):
        sizes = preset(depth, PRESETS)
        blocks = per_stage('stage_blocks', stage_blocks, sizes['stage_blocks'], strides)
        hidden = per_stage('hidden_channels', hidden_channels, sizes['hidden_channels'], strides)
        kernels = tuple(kernel_sizes or sizes['kernel_sizes'])
        contraction = sizes['contraction'] if contraction is None else contraction
        check_attention(attention, attention_stages, strides)

        def stage(i: int, channels: int, splits: bool) -> list[InvertibleModule]:
            layers = []
            for _ in range(blocks[i]):
                block = InvConvResidual(channels, hidden[i], kernels, contraction, activation)
                block.convs.apply(start_loud)
                layers += [ActNorm2d(channels), block]
            layers += [build_attention(attention, channels)] if i in attention_stages else []
            return layers + [OrthogonalConv1x1(channels)] * splits

        super().__init__(stage, in_channels, strides, out_indices, memory_free, init_cfg)


@torch.no_grad()
def start_loud(conv: nn.Module) -> None:
    """Initialises a convolution: an orthogonal matrix in the central tap, small random numbers in the other taps.

    The bound of its norm is then hardly larger than its effect on typical features (delta-orthogonal,
    https://arxiv.org/abs/1806.05393). The bound covers all directions, so with random weights everywhere a branch would
    start at about 1% of its input.
    """
    if isinstance(conv, nn.Conv2d):
        nn.init.normal_(conv.weight, std=0.025 * max(conv.weight.shape[:2]) ** -0.5)
        nn.init.orthogonal_(conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2])
        nn.init.zeros_(conv.bias)
