_base_ = './deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py'
param_scheduler = [dict(_base_.param_scheduler[0], end=160000)]
train_cfg = dict(max_iters=160000, val_interval=16000)
