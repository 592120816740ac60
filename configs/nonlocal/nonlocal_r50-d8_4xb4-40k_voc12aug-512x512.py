_base_ = './nonlocal_r50-d8_4xb4-20k_voc12aug-512x512.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=40000)]
train_cfg = dict(max_iters=40000, val_interval=4000)
