_base_ = [
    '../_base_/models/skip_efficientnetlite0-d8.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_adamw_20k.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=_base_.num_classes, loss_decode=dict(class_weight=_base_.class_weight)),
)
