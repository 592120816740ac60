_base_ = './invnl_r50-d8_4xb2-amp-40k_cityscapes-512x1024.py'
model = dict(decode_head=dict(attention=dict(form='conditional')))
