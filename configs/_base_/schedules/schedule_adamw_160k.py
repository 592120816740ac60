_base_ = './schedule_adamw_20k.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=48000), dict(_base_.param_scheduler[1], begin=48000, end=160000)]
train_cfg = dict(max_iters=160000, val_interval=16000)
