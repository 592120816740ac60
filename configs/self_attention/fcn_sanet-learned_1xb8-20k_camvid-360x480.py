_base_ = './fcn_sanet-quadratic_1xb8-20k_camvid-360x480.py'
model = dict(backbone=dict(attention=dict(encoding='learned_2d', position_size=64, position_channels=240)))
