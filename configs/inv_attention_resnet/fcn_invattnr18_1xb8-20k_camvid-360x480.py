# attention after the last two stages of a network whose blocks do not support plugins
_base_ = '../fcn/fcn_r18-d8_1xb8-20k_camvid-360x480.py'
model = dict(
    backbone=dict(
        type='InvAttentionResNet',
        attention=[dict(stage=stage, form='certified', mode='embedded_gaussian') for stage in (2, 3)],
    )
)
