# The comparison of docs/results.md, on one thread of a CPU. The other heads differ from this one in attention alone.
_base_ = [
    '../../_base_/models/skip_efficientnetlite0-d8.py',
    '../../_base_/datasets/camvid_240x320.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_600.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(output_stride=16),
    decode_head=dict(
        num_classes=_base_.num_classes,
        # frequency of the class to the power of -1/2, one in the mean
        loss_decode=dict(class_weight=[0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.3, 1.33, 0.58, 1.76, 2.61]),
    ),
)
default_hooks = dict(checkpoint=dict(interval=600, max_keep_ckpts=1))
