# optimizer
optimizer = dict(type='Adam', lr=2e-3)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=None)
# the learning rate above is for 8 images per iteration over all GPUs
auto_scale_lr = dict(enable=False, base_batch_size=8)
# learning policy: attention needs the full learning rate until it has found the marker
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=700, end=1000, by_epoch=False),
]
# training schedule of the demo
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
