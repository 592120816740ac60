_base_ = './quadratic.py'
model = dict(backbone=dict(attention=dict(covariance='full')))
