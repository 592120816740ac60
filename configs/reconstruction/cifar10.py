_base_ = '../_base_/reconstruction_protocol.py'
data = dict(type='Cifar10Dataset', data_root='data/cifar10')
train_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
