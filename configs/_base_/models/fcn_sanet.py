# the attention network on patches of 4 x 4 pixels, with outputs at strides 4, 8 and 16
_base_ = './segmentor.py'
# height and width of images must be multiples of the patch size
data_preprocessor = dict(test_cfg=dict(size_divisor=4))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='SelfAttentionNet',
        patch_size=4,
        channels=240,
        num_layers=6,
        num_heads=9,
        feedforward_channels=512,
        attention=dict(encoding='quadratic'),
        pool_after=(1, 3),
        out_indices=(1, 3, 5),
        dropout=0.0,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=[240, 240, 240],
        in_index=[0, 1, 2],
        input_transform='resize_concat',
        channels=256,
        num_convs=1,
        concat_input=False,
    ),
)
