_base_ = '../../_base_/reconstruction/svhn.py'
model = dict(attention=dict(form='coupling', mode='gaussian'))
