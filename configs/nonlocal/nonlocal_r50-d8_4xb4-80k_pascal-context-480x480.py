_base_ = './nonlocal_r50-d8_4xb4-40k_pascal-context-480x480.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=80000)]
train_cfg = dict(max_iters=80000, val_interval=8000)
