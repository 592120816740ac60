_base_ = '../../_base_/flow/cifar10_small.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='embedded_gaussian'), attention_stages=(0,)))
