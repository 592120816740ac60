# dataset settings: classification of 32 x 32 images
dataset_type = 'Cifar10Classification'
data_root = 'data/cifar10/'
train_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pad=4, flip=0.5),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, data_root=data_root, split='test'),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='ClassificationAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
