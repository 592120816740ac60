_base_ = './fcn_sanet-quadratic_4xb2-80k_cityscapes-512x1024.py'
# this encoding is not separable, so attention is restricted to windows of 16 x 16 pixels
model = dict(backbone=dict(attention=dict(covariance='full', window=16)))
