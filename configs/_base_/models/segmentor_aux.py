# a segmentor with an auxiliary head on features of an earlier stage
_base_ = './segmentor.py'
model = dict(
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    )
)
