_base_ = '../danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py'
model = dict(decode_head=dict(type='InvDAHead', attention=dict(form='certified', mode='embedded_gaussian')))
