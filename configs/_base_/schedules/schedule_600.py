# optimizer: the backbone is trained already, the head is not
optimizer = dict(type='AdamW', lr=2e-3, weight_decay=0.01)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=optimizer, paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25)))
)
# the learning rate above is for 4 images per iteration
auto_scale_lr = dict(enable=False, base_batch_size=4)
# learning policy: one cycle
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=180, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=420, eta_min_ratio=1e-4, begin=180, end=600, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
