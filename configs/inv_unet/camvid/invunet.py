_base_ = './unet.py'
model = dict(backbone=dict(type='InvUNet'))
