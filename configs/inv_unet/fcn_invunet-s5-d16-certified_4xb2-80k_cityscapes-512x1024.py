_base_ = './fcn_invunet-s5-d16_4xb2-80k_cityscapes-512x1024.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='embedded_gaussian'), attention_stages=(4,)))
