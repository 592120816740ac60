# Takes minutes on two CPU cores: the central 8 x 8 pixels of CIFAR-10, 2 scales of 2 blocks.
_base_ = './cifar10_small.py'
model = dict(
    backbone=dict(strides=(2, 2), out_indices=(0, 1), stage_blocks=(2, 2), hidden_channels=(96, 96), contraction=0.7),
    image_size=(8, 8),
)
train_dataloader = dict(dataset=dict(crop=8, shift=0))
val_dataloader = dict(batch_size=250, dataset=dict(crop=8))
test_dataloader = dict(batch_size=250, dataset=dict(crop=8))
train_cfg = dict(max_iters=300, val_interval=50)
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=300), certificate=dict(interval=200))
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-2)]
