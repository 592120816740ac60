_base_ = './schedule_adamw_20k.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=12000), dict(_base_.param_scheduler[1], begin=12000, end=40000)]
train_cfg = dict(max_iters=40000, val_interval=4000)
