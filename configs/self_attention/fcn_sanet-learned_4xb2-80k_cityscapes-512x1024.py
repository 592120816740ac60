_base_ = './fcn_sanet-quadratic_4xb2-80k_cityscapes-512x1024.py'
model = dict(backbone=dict(attention=dict(encoding='learned_2d', position_size=64, position_channels=240)))
