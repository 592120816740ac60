_base_ = '../nonlocal/nonlocal_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(decode_head=dict(type='InvNLHead', attention=dict(form='certified', mode='embedded_gaussian')))
