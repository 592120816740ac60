# EfficientNet-Lite0 with ordinary non-local attention on its last features, and a skip from stride 8
_base_ = './segmentor.py'
data_preprocessor = dict(mean=[127.0] * 3, std=[128.0] * 3)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained='package',
    backbone=dict(type='EfficientNetLite', variant='lite0', out_indices=(2, 4), output_stride=8),
    decode_head=dict(
        type='InvSkipHead',
        attention=dict(form='none', mode='embedded_gaussian'),
        in_channels=320,
        in_index=1,
        channels=128,
        c1_in_channels=40,
        c1_channels=32,
    ),
)
