_base_ = './invnl.py'
model = dict(decode_head=dict(attention=dict(mode='concatenation')))
