_base_ = '../pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py'
model = dict(decode_head=dict(type='InvPSPHead', attention=dict(form='certified', mode='embedded_gaussian')))
