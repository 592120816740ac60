_base_ = './quadratic.py'
# ResNet-18 with 1/4 of its channels
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
