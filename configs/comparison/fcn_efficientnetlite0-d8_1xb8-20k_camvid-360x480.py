_base_ = './nonlocal_efficientnetlite0-d8_1xb8-20k_camvid-360x480.py'
model = dict(decode_head=dict(num_blocks=0))
