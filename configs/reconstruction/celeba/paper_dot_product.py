_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='paper', mode='dot_product', reduction=4))
