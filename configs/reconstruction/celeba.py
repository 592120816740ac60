_base_ = '../_base_/reconstruction_protocol.py'
data = dict(type='CelebADataset', data_root='data/celeba')
train_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
