_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='paper', mode='embedded_gaussian', reduction=4))
