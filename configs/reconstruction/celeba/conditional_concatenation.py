_base_ = '../../_base_/reconstruction/celeba.py'
model = dict(attention=dict(form='conditional', mode='concatenation'))
