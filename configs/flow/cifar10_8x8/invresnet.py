_base_ = '../../_base_/flow/cifar10_8x8.py'
