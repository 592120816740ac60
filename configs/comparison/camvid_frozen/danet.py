_base_ = './nonlocal.py'
model = dict(decode_head=dict(type='InvDAHead'))
