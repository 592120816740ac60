"""ResNet of any depth with invertible attention after chosen stages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...layers.checks import check_count
from ..attention import AttentionInverse, build_attention, forward_and_back
from ..recorded_inputs import recorded_inputs


@MODELS.register_module()
class InvAttentionResNet(ResNet):
    """ResNet-18 to ResNet-152 with attention after whole stages.

    (The plugins of MMSegmentation's ResNets work inside bottlenecks, which depths 18 and 34 do not have, and of several
    plugins at the same position only the last is used.) Parameters have the same names as in ``ResNet``, so pretrained
    weights can be loaded; those of an attention after stage 2 begin with ``layer3.attention0``.

    Args:
        attention: one dict for each attention: ``stage``, counted from 0 as in ``out_indices``; ``num_blocks`` (1), see
            :func:`~mmseg_invattn.models.attention.build_attention`; the other entries are the config of the block.
            Several attentions of one stage are applied in the given order.
        deep_stem: three 3x3 convolutions in the stem, as in ``ResNetV1c``; False for ``ResNet``.
        kwargs: further arguments of ``ResNet``; ``avg_down=True`` for ``ResNetV1d``.

    Raises:
        ValueError: an argument breaks its rule.

    Examples:
        >>> net = InvAttentionResNet(depth=18, attention=[dict(stage=2, form='certified')])
    """

    def __init__(self, attention: Sequence[Mapping] = (), deep_stem: bool = True, **kwargs: Any):
        super().__init__(deep_stem=deep_stem, **kwargs)
        for entry in attention:
            self._attach(**entry)

    def _attach(self, stage: int | None = None, num_blocks: int = 1, **config) -> None:
        """Appends attention to a stage."""
        if stage not in range(self.num_stages):
            raise ValueError(
                f'attention has stage={stage!r}, but this network has the stages 0 to '
                f'{self.num_stages - 1}: choose one of them, counted as in out_indices'
            )
        check_count('num_blocks', num_blocks)
        if stage < self.frozen_stages:
            raise ValueError(
                f'attention has stage={stage}, which frozen_stages={self.frozen_stages} freezes, so the attention '
                f'would not be trained: lower frozen_stages to {stage} or choose a later stage'
            )
        layer = getattr(self, self.res_layers[stage])
        channels = self.base_channels * 2**stage * self.block.expansion
        before = sum(name.startswith('attention') for name, _ in layer.named_children())
        layer.add_module(f'attention{before}', build_attention(channels, config, num_blocks))

    def _attentions(self) -> Iterator[tuple[str, nn.Module]]:
        for stage in self.res_layers:
            for name, module in getattr(self, stage).named_children():
                if name.startswith('attention'):
                    yield f'{stage}.{name}', module

    @torch.no_grad()
    def invert_attention(
        self, x: Tensor, tol: float = 1e-6, max_iter: int = 100, strict: bool = True
    ) -> dict[str, AttentionInverse]:
        """Runs every attention forward and back on its input for a batch of images.

        Args:
            x: images, as for ``forward``.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
            max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
            strict: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.

        Returns:
            The result for each attention, by the name of its module and in the order of the stages.

        Raises:
            TypeError: an attention has no inverse.
            NotConvergedError: with ``strict``, if a sample does not meet ``tol`` within ``max_iter``.
        """
        return {
            name: forward_and_back(attention, seen, tol, max_iter, strict)
            for name, attention, seen in recorded_inputs(self._attentions(), lambda: self(x))
        }
