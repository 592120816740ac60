# embedded Gaussian with half of the channels, which are the defaults of the head
_base_ = './r50-d8.py'
model = dict(decode_head=dict(type='NLHead'))
