# The comparison in docs/results/camvid.md, on one thread of a CPU. The other heads differ from this one only in the
# attention.
_base_ = [
    '../../_base_/models/skip_efficientnetlite0-d8.py',
    '../../_base_/datasets/camvid_240x320.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_adamw_600.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    # the stem, the first stages and the statistics of batch norm are frozen, to save time
    backbone=dict(output_stride=32, frozen_stages=2, norm_eval=True),
    decode_head=dict(num_classes=_base_.num_classes, loss_decode=dict(class_weight=_base_.class_weight)),
)
default_hooks = dict(checkpoint=dict(interval=600, max_keep_ckpts=1))
