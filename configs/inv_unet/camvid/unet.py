# The comparison in docs/results/unet.md, on one thread of a CPU: U-Nets of 8 channels, images of 240 x 320. The other
# configs differ from this one only in the backbone.
_base_ = [
    '../../_base_/models/fcn_unet-s5-d16.py',
    '../../_base_/datasets/camvid_240x320.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_adamw_600.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(base_channels=8),
    decode_head=dict(
        in_channels=8, channels=8, num_classes=_base_.num_classes, loss_decode=dict(class_weight=_base_.class_weight)
    ),
)
# Everything starts from random weights. The learning rate was best for this network at half of the size.
optim_wrapper = dict(optimizer=dict(lr=8e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
train_cfg = dict(val_interval=600)
default_hooks = dict(checkpoint=dict(interval=600, max_keep_ckpts=1))
