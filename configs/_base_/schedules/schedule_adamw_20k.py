# optimizer: the backbone is pretrained, the head is not
optimizer = dict(type='AdamW', lr=2e-3, weight_decay=0.01)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=optimizer, paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25)))
)
# the learning rate above is for 8 images per iteration over all GPUs
auto_scale_lr = dict(enable=False, base_batch_size=8)
# learning policy: one cycle
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=6000, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-4, begin=6000, end=20000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
