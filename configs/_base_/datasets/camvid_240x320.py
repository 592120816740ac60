# dataset settings: CamVid at two thirds of its size, for runs on a CPU
_base_ = './camvid_360x480.py'
crop_size = (240, 320)
train_pipeline = [
    dict(type='SeedTransforms'),
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=_base_.num_classes),
    dict(type='RandomResize', scale=(320, 240), ratio_range=(1.0, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# labels keep their full size, and predictions are enlarged to that size
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# no worker processes: a run uses one thread, and workers would need a second one
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
