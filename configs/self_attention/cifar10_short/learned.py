_base_ = './quadratic.py'
model = dict(backbone=dict(attention=dict(_delete_=True, encoding='learned_2d', position_size=8, position_channels=32)))
