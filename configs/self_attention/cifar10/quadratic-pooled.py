_base_ = './quadratic.py'
model = dict(backbone=dict(pool_after=(1, 3)))
