_base_ = './danet.py'
model = dict(decode_head=dict(attention=dict(form='certified')))
