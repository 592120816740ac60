# dataset settings
_base_ = './segmentation.py'
dataset_type = 'CamVidDataset'
data_root = 'data/camvid/'
num_classes = 11
# for loss_decode: (frequency of the class in the training labels)^(-1/2), scaled to a mean of 1
class_weight = [0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.3, 1.33, 0.58, 1.76, 2.61]
crop_size = (360, 480)
train_pipeline = [
    dict(type='SeedTransforms'),
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=num_classes),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# DatasetCheckHook makes loading strict here; MMSegmentation's inference looks for these two names.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(480, 360), keep_ratio=True),
    # add loading annotation after ``Resize`` because ground truth
    # does not need to do resize data transform
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
# To use the 233 images of the test split, set data_prefix to images/test and labels/test in test_dataloader.
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
