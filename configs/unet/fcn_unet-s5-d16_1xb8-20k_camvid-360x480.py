_base_ = [
    '../_base_/models/fcn_unet-s5-d16.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_adamw_20k.py',
]
# the crop size rounded up to multiples of 16
data_preprocessor = dict(size=(368, 480))
model = dict(data_preprocessor=data_preprocessor, decode_head=dict(num_classes=_base_.num_classes))
# everything starts from random weights
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
