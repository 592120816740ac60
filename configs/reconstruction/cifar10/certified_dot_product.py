_base_ = '../../_base_/reconstruction/cifar10.py'
model = dict(attention=dict(form='certified', mode='dot_product'))
