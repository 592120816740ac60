# Whole CIFAR-10 images, for one or two CPU cores, in about an hour: 3 scales of 4 blocks, 64 hidden channels.
_base_ = './cifar10.py'
model = dict(
    backbone=dict(stage_blocks=(4, 4, 4), hidden_channels=(64, 64, 64), contraction=0.9, memory_free=False),
    test_cfg=dict(reconstruct=True),
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
loader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(dataset=dict(num_images=500), **loader)
test_dataloader = loader
test_evaluator = [dict(type='BitsPerDimMetric'), dict(type='ReconstructionMetric')]
train_cfg = dict(max_iters=1500, val_interval=250)
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=250), logger=dict(interval=25), certificate=dict(interval=500))
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=5e-3)]
