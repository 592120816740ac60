_base_ = '../danet/danet_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(decode_head=dict(type='InvDAHead', attention=dict(form='certified', mode='embedded_gaussian')))
