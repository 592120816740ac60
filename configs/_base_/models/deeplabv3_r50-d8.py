_base_ = './r50-d8.py'
model = dict(decode_head=dict(type='ASPPHead', dilations=(1, 12, 24, 36)))
