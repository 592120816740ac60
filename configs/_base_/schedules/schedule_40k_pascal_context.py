_base_ = './schedule_40k.py'
optimizer = dict(lr=0.004, weight_decay=0.0001)
optim_wrapper = dict(optimizer=optimizer)
