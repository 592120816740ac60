_base_ = './fcn.py'
model = dict(decode_head=dict(type='NLHead'))
