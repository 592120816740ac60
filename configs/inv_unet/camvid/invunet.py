_base_ = './unet.py'
model = dict(backbone=dict(_delete_=True, type='InvUNet', base_channels=16))
