# MMSegmentation's U-Net of five stages, without an auxiliary head
_base_ = './segmentor.py'
# height and width of images must be multiples of the stride of the last stage
data_preprocessor = dict(test_cfg=dict(size_divisor=16))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(type='UNet', base_channels=64),
    # the last features have the resolution of the image
    decode_head=dict(type='FCNHead', in_channels=64, channels=64, num_convs=1, concat_input=False),
)
