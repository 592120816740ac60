_base_ = '../deeplabv3/deeplabv3_r101-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(decode_head=dict(type='InvASPPHead', attention=dict(form='certified', mode='embedded_gaussian')))
