# model settings: a network whose receptive field is smaller than the distance in the demo images; its head has no type
_base_ = './segmentor.py'
data_preprocessor = dict(size=(48, 96))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(type='PlainConvNet', channels=48, strides=(2, 2)),
    decode_head=dict(
        in_channels=48,
        in_index=0,
        channels=48,
        dropout_ratio=0,
        num_classes=3,
        # With ReLU all 48 features may be 0 at the shapes; then the gradient is 0 and training makes no progress.
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
    ),
)
