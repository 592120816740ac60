_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='paper', mode='concatenation', reduction=4))
