_base_ = './danet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=80000)]
train_cfg = dict(max_iters=80000, val_interval=8000)
