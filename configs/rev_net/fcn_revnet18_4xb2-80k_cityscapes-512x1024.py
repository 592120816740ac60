_base_ = '../inv_resnet/fcn_invresnet18_4xb2-80k_cityscapes-512x1024.py'
model = dict(backbone=dict(type='RevNet2d', attention=dict(form='coupling')))
