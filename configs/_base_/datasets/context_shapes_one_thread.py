# dataset settings: no worker processes, since a run uses one thread, and workers would need a second one
_base_ = './context_shapes.py'
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
