_base_ = '../cifar10/quadratic.py'
# A version that takes minutes on a CPU: patches of 4 x 4 pixels (8 x 8 tokens), 32 channels, no dropout, 150
# iterations. Layers, heads, optimiser, batch size and the shape of the schedule are as in the full version.
model = dict(
    backbone=dict(patch_size=4, channels=32, feedforward_channels=64, attention=dict(dropout=0.0), dropout=0.0),
    in_channels=32,
)
# also works with a part of CIFAR-10
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(verify='warn'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(verify='warn'))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=8, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=8, end=150, by_epoch=False),
]
train_cfg = dict(max_iters=150, val_interval=75)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=150))
custom_hooks = [dict(type='AttentionCentreHook', interval=15)]
