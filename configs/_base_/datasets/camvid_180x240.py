# dataset settings: every fifth of the training images of CamVid is held out, at half of its size
_base_ = './camvid_240x320.py'
crop_size = (180, 240)
train_pipeline = [
    dict(type='SeedTransforms'),
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=_base_.num_classes),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(indices=[i for i in range(367) if i % 5 != 4], pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        indices=[i for i in range(367) if i % 5 == 4],
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
