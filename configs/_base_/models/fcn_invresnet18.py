# an invertible backbone, with outputs at strides 4, 8, 16 and 32
_base_ = './segmentor_aux.py'
# height and width of images must be multiples of its stride, 32
data_preprocessor = dict(test_cfg=dict(size_divisor=32))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='InvResNet', depth='18', attention=dict(form='certified', mode='embedded_gaussian'), attention_stages=(3,)
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=[24, 48, 96, 384],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=256,
        num_convs=1,
        concat_input=False,
    ),
    auxiliary_head=dict(in_channels=96, channels=64),
)
