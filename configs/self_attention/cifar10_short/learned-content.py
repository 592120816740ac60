_base_ = './learned.py'
model = dict(backbone=dict(attention=dict(content='both')))
