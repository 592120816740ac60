_base_ = '../deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_pascal-context-59-480x480.py'
model = dict(
    decode_head=dict(type='InvDepthwiseSeparableASPPHead', attention=dict(form='certified', mode='embedded_gaussian'))
)
