_base_ = [
    '../_base_/models/fcn_sanet.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_80k.py',
]
data_preprocessor = dict(size=_base_.crop_size)
model = dict(data_preprocessor=data_preprocessor)
# no weight decay for the centres and widths of attention
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'encoding.centre': dict(decay_mult=0.0), 'encoding.root': dict(decay_mult=0.0)})
)
