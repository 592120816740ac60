"""Registers the layers, so that configs can use them as ``dict(type=...)`` and as plugins of ResNets.

``plugins=[dict(cfg=dict(type='CertifiedAttention2d', mode=...), stages=(False, True, True, False),
position='after_conv3')]`` puts the block into every bottleneck of the second and third stage of a ResNet, ResNetV1c,
ResNetV1d or ResNeXt. For several successive blocks use ``InvAttentionResNet``, which puts them after whole stages.
Without pretrained weights give the ResNet ``zero_init_residual=False``: otherwise the input of a block after conv3 is
zero at the start, but the normalisation of a certified block is initialised from the first batch.
"""

from mmseg.registry import MODELS

from ...layers import FORMS, InvChannelAttention, InvRelativeAttention2d, RelativeSelfAttention2d

for layer in (*FORMS.values(), InvChannelAttention, InvRelativeAttention2d, RelativeSelfAttention2d):
    MODELS.register_module(module=layer)
