_base_ = './invnl_r18-d8_1xb8-20k_camvid-360x480.py'
# a coupling is no contraction: its channels need not be loud or quiet to be noticed
model = dict(decode_head=dict(attention=dict(form='coupling'), spread=1.0))
