_base_ = './quadratic.py'
model = dict(backbone=dict(attention=dict(encoding='learned_2d', position_size=16, position_channels=400)))
