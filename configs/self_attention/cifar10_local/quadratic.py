_base_ = '../cifar10_short/quadratic.py'
# Settings with which the centres of heads move within minutes on a CPU: 8 x 8 tokens, 3 layers, 32 channels, no
# dropout, AdamW, and ten times the learning rate for centres and widths.
# docs/explanation/attention_as_convolution.md explains why.
model = dict(backbone=dict(num_layers=3, out_indices=(2,)))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'encoding.centre': dict(lr_mult=10.0), 'encoding.root': dict(lr_mult=10.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=150, end=3000, by_epoch=False),
]
train_cfg = dict(max_iters=3000, val_interval=500)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100))
custom_hooks = [dict(type='AttentionCentreHook', interval=50)]
