# model settings: the attention network on patches of 4 x 4 pixels, at strides 4, 8 and 16
# BN becomes SyncBN where training is distributed, see sync_bn in default_runtime.py
norm_cfg = dict(type='BN', requires_grad=True)
# the patches take images whose sides are multiples of theirs
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    test_cfg=dict(size_divisor=4),
)
model = dict(
    type='EncoderDecoder',
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
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    # model training and testing settings
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
