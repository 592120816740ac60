"""Layers that configs name in ``dict(type=...)``, and that mmcv's plugin layer puts into ResNets.

``plugins=[dict(cfg=dict(type='InvNonLocal2d', form=...), stages=(False, True, True, False), position='after_conv3')]``
puts the block into every bottleneck of the second and third stage of a ResNet, ResNetV1c, ResNetV1d or ResNeXt.
Without pretrained weights give the ResNet ``zero_init_residual=False``: what a block after conv3 sees would begin as
zeros, and the normalisation of a certified block starts from the first batch.
"""
from mmseg.registry import MODELS

from ...layers import (
    InvAttentionStack,
    InvChannelAttention,
    InvDualAttention,
    InvNonLocal2d,
    InvRelativeAttention2d,
    RelativeSelfAttention2d,
)

for layer in (InvAttentionStack, InvChannelAttention, InvDualAttention, InvNonLocal2d, InvRelativeAttention2d,
              RelativeSelfAttention2d):
    MODELS.register_module(module=layer)
