_base_ = [
    '../_base_/models/fcn_sanet.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_20k.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor, decode_head=dict(num_classes=_base_.num_classes))
# no weight decay for the centres and widths of attention
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'encoding.centre': dict(decay_mult=0.0), 'encoding.root': dict(decay_mult=0.0)})
)
