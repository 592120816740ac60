# model settings: a network whose receptive field is smaller than the distance in the demo images
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(48, 96),
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='PlainConvNet', channels=48, strides=(2, 2)),
    decode_head=dict(
        type='FCNHead',
        in_channels=48,
        in_index=0,
        channels=48,
        concat_input=False,
        dropout_ratio=0,
        num_classes=3,
        norm_cfg=None,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    # model training and testing settings
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
