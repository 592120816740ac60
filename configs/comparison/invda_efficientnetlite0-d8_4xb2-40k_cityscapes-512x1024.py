_base_ = './danet_efficientnetlite0-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(decode_head=dict(attention=dict(form='certified')))
