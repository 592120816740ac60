"""Layers that configs name in ``dict(type=...)``, and that mmcv's plugin layer puts into ResNets.

``plugins=[dict(cfg=dict(type='CertifiedAttention2d', mode=...), stages=(False, True, True, False),
position='after_conv3')]`` puts the block into every bottleneck of the second and third stage of a ResNet, ResNetV1c,
ResNetV1d or ResNeXt; several blocks in a row go behind whole stages, with ``InvAttentionResNet``. Without pretrained
weights give the ResNet ``zero_init_residual=False``: what a block after conv3 sees would begin as zeros, and the
normalisation of a certified block starts from the first batch.
"""

from mmseg.registry import MODELS

from ...layers import FORMS, InvChannelAttention, InvRelativeAttention2d, RelativeSelfAttention2d

for layer in (*FORMS.values(), InvChannelAttention, InvRelativeAttention2d, RelativeSelfAttention2d):
    MODELS.register_module(module=layer)
