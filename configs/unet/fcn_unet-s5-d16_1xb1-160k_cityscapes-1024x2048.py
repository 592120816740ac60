_base_ = [
    '../_base_/models/fcn_unet-s5-d16.py',
    '../_base_/datasets/cityscapes_1024x2048.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_adamw_160k.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor)
# the learning rate for one image per iteration; everything starts from random weights
auto_scale_lr = dict(base_batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
