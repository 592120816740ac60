_base_ = '../_base_/reconstruction_protocol.py'
data = dict(type='SVHNDataset', data_root='data/svhn')
train_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
