# attention after the last two stages
_base_ = '../fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(
    backbone=dict(
        type='InvAttentionResNet',
        attention=[dict(stage=stage, form='certified', mode='embedded_gaussian') for stage in (2, 3)],
    )
)
