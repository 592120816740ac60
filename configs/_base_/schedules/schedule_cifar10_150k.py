# The schedule of https://arxiv.org/abs/1911.03584: 300 epochs of 500 iterations, the first 5% for warm-up.
optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
# no weight decay for the centres and widths of attention; other models have no parameters with these names
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=optimizer,
    paramwise_cfg=dict(custom_keys={'encoding.centre': dict(decay_mult=0.0), 'encoding.root': dict(decay_mult=0.0)}),
)
auto_scale_lr = dict(enable=False, base_batch_size=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=7500, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=7500, end=150000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=150000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
