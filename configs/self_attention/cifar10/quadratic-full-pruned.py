_base_ = './quadratic-full.py'
# A trained quadratic-full without its degenerate heads, trained for 100 more epochs with 1/10 of the learning rate. The
# number of heads of each layer comes from the pruning, see docs/explanation/attention_as_convolution.md.
load_from = 'work_dirs/quadratic-full/pruned.pth'
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=2500, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=2500, end=50000, by_epoch=False),
]
train_cfg = dict(max_iters=50000)
