_base_ = './quadratic.py'
model = dict(backbone=dict(num_heads=16))
