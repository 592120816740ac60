# dataset settings
dataset_type = 'ContextShapesDataset'
data_root = 'data/context_shapes/'
num_classes = 3
# No augmentation: tools/dataset_converters/context_shapes.py can generate any number of images.
train_pipeline = [
    dict(type='SeedTransforms'),
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
# DatasetCheckHook makes loading strict here; MMSegmentation's inference looks for these two names.
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        num_classes=num_classes,
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
# All images have the same size, so they can be evaluated in batches.
val_dataloader = dict(
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        num_classes=num_classes,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
