_base_ = '../../_base_/reconstruction/svhn.py'
model = dict(attention=dict(form='paper', mode='dot_product', reduction=4))
