# The comparison in docs/results/camvid_frozen.md, on one thread of a CPU: attention on the first stages of a frozen
# backbone, which see little of the image. The other heads differ from this one only in the attention.
_base_ = [
    '../../_base_/models/skip_efficientnetlite0-d8.py',
    '../../_base_/datasets/camvid_180x240.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_adamw_600.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(out_indices=(2,), frozen_stages=2),
    # the attention and the skip have the same features, at stride 8
    decode_head=dict(
        in_channels=40, in_index=0, num_classes=_base_.num_classes, loss_decode=dict(class_weight=_base_.class_weight)
    ),
)
default_hooks = dict(checkpoint=dict(interval=600, max_keep_ckpts=1))
