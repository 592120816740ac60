_base_ = '../../_base_/flow/cifar10.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='dot_product'), attention_stages=(0,)))
