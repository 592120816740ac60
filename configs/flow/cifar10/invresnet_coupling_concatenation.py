_base_ = '../../_base_/flow/cifar10.py'
model = dict(backbone=dict(attention=dict(form='coupling', mode='concatenation'), attention_stages=(0,)))
