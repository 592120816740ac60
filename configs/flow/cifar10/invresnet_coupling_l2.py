_base_ = '../../_base_/flow/cifar10.py'
model = dict(backbone=dict(attention=dict(form='coupling', mode='l2'), attention_stages=(0,)))
