# Full image size: one epoch with batches of one image.
_base_ = './celeba.py'
model = dict(target_shape=(1, 12, 109, 89))
train_dataloader = dict(batch_size=1, dataset=dict(size=None))
test_dataloader = dict(batch_size=1, dataset=dict(size=None))
epoch_length = 1000
train_cfg = dict(max_iters=1000)
default_hooks = dict(checkpoint=dict(interval=1000), logger=dict(interval=100))
