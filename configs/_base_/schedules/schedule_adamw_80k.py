_base_ = './schedule_adamw_20k.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=24000), dict(_base_.param_scheduler[1], begin=24000, end=80000)]
train_cfg = dict(max_iters=80000, val_interval=8000)
