_base_ = './quadratic.py'
model = dict(
    backbone=dict(_delete_=True, type='CifarResNet', depth=18, norm_cfg=dict(type='BN', requires_grad=True)),
    in_channels=512,
)
