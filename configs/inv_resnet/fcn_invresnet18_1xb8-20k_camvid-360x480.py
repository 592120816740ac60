_base_ = [
    '../_base_/models/fcn_invresnet18.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_20k.py',
]
# the crop size rounded up to multiples of 32
data_preprocessor = dict(size=(384, 480))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
