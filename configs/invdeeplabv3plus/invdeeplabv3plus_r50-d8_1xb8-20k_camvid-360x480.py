_base_ = '../deeplabv3plus/deeplabv3plus_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(
    decode_head=dict(type='InvDepthwiseSeparableASPPHead', attention=dict(form='certified', mode='embedded_gaussian'))
)
