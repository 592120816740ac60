_base_ = './schedule_adamw_20k.py'
# the learning rate is for 4 images per iteration here
auto_scale_lr = dict(base_batch_size=4)
param_scheduler = [dict(_base_.param_scheduler[0], end=180), dict(_base_.param_scheduler[1], begin=180, end=600)]
train_cfg = dict(max_iters=600, val_interval=200)
