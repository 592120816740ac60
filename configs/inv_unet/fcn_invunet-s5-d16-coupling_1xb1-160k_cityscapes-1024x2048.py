_base_ = './fcn_invunet-s5-d16_1xb1-160k_cityscapes-1024x2048.py'
model = dict(backbone=dict(attention=dict(form='coupling', mode='embedded_gaussian'), attention_stages=(4,)))
