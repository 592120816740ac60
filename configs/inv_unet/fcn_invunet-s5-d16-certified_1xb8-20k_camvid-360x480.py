_base_ = './fcn_invunet-s5-d16_1xb8-20k_camvid-360x480.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='embedded_gaussian'), attention_stages=(4,)))
