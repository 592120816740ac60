_base_ = '../../_base_/reconstruction/svhn.py'
model = dict(attention=dict(form='paper', mode='gaussian', reduction=4))
