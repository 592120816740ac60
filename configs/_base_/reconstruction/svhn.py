_base_ = './protocol.py'
data = dict(type='SVHNDataset', data_root='data/svhn')
train_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
