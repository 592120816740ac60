# The protocol of the first experiment of Invertible Attention (https://arxiv.org/abs/2106.09003), for images of 32 x 32
# pixels: 100 epochs of 15 full batches of 64, from 1000 images. The options --form and --mode choose the attention.
_base_ = './default_runtime.py'
model = dict(
    type='InvReconstruction', attention=dict(form='certified', mode='embedded_gaussian'), target_shape=(64, 12, 16, 16)
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', num_images=1000),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='test', num_images=1000),
)
test_evaluator = dict(type='ReconstructionMetric')
epoch_length = 15
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1500, val_interval=10**9)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=3e-3))
default_hooks = dict(
    checkpoint=dict(interval=1500, max_keep_ckpts=1), logger=dict(interval=150), certificate=dict(interval=500)
)
