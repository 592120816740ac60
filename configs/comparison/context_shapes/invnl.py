_base_ = './nonlocal.py'
model = dict(decode_head=dict(type='InvNLHead', attention=dict(form='certified')))
