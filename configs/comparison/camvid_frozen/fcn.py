_base_ = './nonlocal.py'
model = dict(decode_head=dict(num_blocks=0))
