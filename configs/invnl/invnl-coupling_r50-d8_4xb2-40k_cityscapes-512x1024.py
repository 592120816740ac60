_base_ = './invnl_r50-d8_4xb2-40k_cityscapes-512x1024.py'
# a coupling is no contraction: its channels need not be loud or quiet to be noticed
model = dict(decode_head=dict(attention=dict(form='coupling'), spread=1.0))
