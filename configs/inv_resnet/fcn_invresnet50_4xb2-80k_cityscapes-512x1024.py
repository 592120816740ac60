_base_ = './fcn_invresnet18_4xb2-80k_cityscapes-512x1024.py'
model = dict(backbone=dict(depth='50'))
