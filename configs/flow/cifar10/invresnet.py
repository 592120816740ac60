_base_ = '../../_base_/flow/cifar10.py'
