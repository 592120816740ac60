_base_ = '../inv_resnet/fcn_invresnet18_1xb8-20k_camvid-360x480.py'
model = dict(backbone=dict(type='RevNet2d', attention=dict(form='coupling')))
