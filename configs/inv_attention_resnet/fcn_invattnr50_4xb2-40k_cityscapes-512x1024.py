# attention behind the last two stages
_base_ = '../fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
attention = dict(form='certified', mode='embedded_gaussian')
model = dict(
    backbone=dict(type='InvAttentionResNet', attention=[dict(stage=2, **attention), dict(stage=3, **attention)])
)
