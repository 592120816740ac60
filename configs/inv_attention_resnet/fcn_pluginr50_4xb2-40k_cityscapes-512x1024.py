# attention inside every bottleneck of the third stage, as a plugin of MMSegmentation's ResNet
_base_ = '../fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='CertifiedAttention2d', mode='embedded_gaussian'),
                stages=(False, False, True, False),
                position='after_conv3',
            )
        ]
    )
)
