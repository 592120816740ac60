_base_ = './quadratic.py'
# a quarter of the channels of ResNet-18
model = dict(
    backbone=dict(
        _delete_=True,
        type='CifarResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
    in_channels=128,
)
