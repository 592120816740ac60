_base_ = '../../_base_/reconstruction/celeba_218x178.py'
model = dict(attention=dict(form='paper', mode='l2', reduction=4))
