_base_ = './fcn_plainconv_1xb8-1k_context-shapes-48x96.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='NLHead',
        in_channels=48,
        in_index=0,
        channels=48,
        concat_input=False,
        dropout_ratio=0,
        reduction=2,
        use_scale=True,
        mode='embedded_gaussian',
        num_classes=3,
        norm_cfg=None,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    )
)
