_base_ = './fcn_sanet-learned_4xb2-80k_cityscapes-512x1024.py'
# the attention weights depend on the image, so attention is restricted to windows of 16 x 16 pixels
model = dict(backbone=dict(attention=dict(position_size=16, content='both', key_channels=32, window=16)))
