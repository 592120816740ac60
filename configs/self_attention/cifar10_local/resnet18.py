_base_ = './quadratic.py'
# ResNet-18 with 1/16 of its channels: as many parameters as the attention network
model = dict(
    backbone=dict(
        _delete_=True,
        type='CifarResNet',
        depth=18,
        stem_channels=4,
        base_channels=4,
        norm_cfg=dict(type='BN', requires_grad=True),
    )
)
