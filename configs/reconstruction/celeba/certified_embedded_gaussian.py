_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='certified', mode='embedded_gaussian'))
