# A config for your own data, see docs/tutorials/own_data.md. Copy this file with:
#   mmseg-invattn print-config own_data/invnl_r18_1xb8-2k_own-data-256x256.py --copy my_data.py
_base_ = ['../_base_/models/nonlocal_r50-d8.py', '../_base_/datasets/own_data.py', '../_base_/default_runtime.py']

# Edit these settings. Everything below is derived from them.
data_root = 'data/own'
classes = ('background', 'first', 'second')  # the classes with labels 0, 1, 2, ...
palette = [[0, 0, 0], [220, 40, 40], [40, 90, 230]]  # the colour of each class, RGB
size = (256, 256)  # height and width of the training crops in pixels
batch_size = 8
max_iters = 2000
lr = 1e-3  # for training from scratch; use 1e-4 for training from published weights

# The model: non-local attention with an inverse. For other attention see docs/reference/configs.md.
data_preprocessor = dict(size=size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        type='InvNLHead', attention=dict(form='certified', mode='embedded_gaussian'), num_classes=len(classes)
    ),
    auxiliary_head=dict(num_classes=len(classes)),
)
# For a CPU: ResNet-18 with 1/4 of its channels, trained from scratch. Without these four lines the backbone is
# ResNet-50 with published weights.
model['pretrained'] = None
model['backbone'] = dict(depth=18, base_channels=16)
model['decode_head'].update(in_channels=128, channels=64)
model['auxiliary_head'].update(in_channels=64, channels=32)

train_pipeline = [
    dict(type='SeedTransforms'),
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=len(classes)),
    dict(type='RandomResize', scale=size[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size[::-1], keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
data = dict(data_root=data_root, metainfo=dict(classes=classes, palette=palette))
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline, **data))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **data))
test_dataloader = val_dataloader

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=lr, weight_decay=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)
tenth = max(max_iters // 10, 1)
# 1/10 of the iterations is warm-up; there are 10 validations, each with a checkpoint, and 100 lines in the log
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=tenth, by_epoch=False),
    dict(type='PolyLR', eta_min=lr / 100, power=0.9, begin=0, end=max_iters, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=tenth)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=tenth), logger=dict(interval=max(max_iters // 100, 1)))

# Delete the helper variables, because --cfg-options max_iters=... could not change what was derived from them.
del data_root, classes, palette, size, batch_size, max_iters, lr, tenth, data
