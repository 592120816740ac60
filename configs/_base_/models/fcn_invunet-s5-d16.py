# the same with the invertible U-Net, of about as many parameters
_base_ = './fcn_unet-s5-d16.py'
model = dict(backbone=dict(type='InvUNet'))
