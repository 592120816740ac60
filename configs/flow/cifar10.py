# The generative experiment of Invertible Attention (https://arxiv.org/abs/2106.09003) on CIFAR-10: the i-ResNet of
# Behrmann et al. (https://arxiv.org/abs/1811.00995) with 3 scales of 16 blocks, 200 epochs of 781 batches. The options
# --form and --mode put attention after the blocks of the first scale.
_base_ = '../_base_/default_runtime.py'
model = dict(
    type='InvResNetFlow',
    backbone=dict(
        type='InvResNet',
        strides=(2, 2, 2),
        out_indices=(0, 1, 2),
        stage_blocks=(16, 16, 16),
        hidden_channels=(512, 512, 512),
        kernel_sizes=(3, 1, 3),
        contraction=0.98,
        activation='ELU',
        memory_free=True,
    ),
    image_size=(32, 32),
    n_terms=5,
    test_cfg=dict(n_terms='roulette'),
)
data = dict(type='Cifar10Dataset', data_root='data/cifar10')
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', shift=4, flip=0.5, **data),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='test', **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='BitsPerDimMetric')
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=156200, val_interval=7810)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adamax', lr=3e-3))
# one epoch of warm-up, then a constant learning rate
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=781, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=7810), logger=dict(interval=100), certificate=dict(interval=1000))
# validation, test and checkpoints use the averaged weights
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-3)]
