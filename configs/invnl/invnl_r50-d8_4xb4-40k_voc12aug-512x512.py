_base_ = '../nonlocal/nonlocal_r50-d8_4xb4-40k_voc12aug-512x512.py'
model = dict(decode_head=dict(type='InvNLHead', attention=dict(form='certified', mode='embedded_gaussian')))
