_base_ = '../../_base_/flow/cifar10.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='gaussian'), attention_stages=(0,)))
