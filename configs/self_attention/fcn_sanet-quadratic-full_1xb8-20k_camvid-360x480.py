_base_ = './fcn_sanet-quadratic_1xb8-20k_camvid-360x480.py'
# this encoding is not separable, so attention is restricted to windows of 16 x 16 pixels
model = dict(backbone=dict(attention=dict(covariance='full', window=16)))
