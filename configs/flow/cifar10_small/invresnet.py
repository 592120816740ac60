_base_ = '../../_base_/flow/cifar10_small.py'
