_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='coupling', mode='l2'))
