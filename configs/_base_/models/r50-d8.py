# ResNet-50 with stride 8; the methods differ only in the head
_base_ = './segmentor_aux.py'
model = dict(
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=_base_.norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    decode_head=dict(in_channels=2048, in_index=3, channels=512),
    auxiliary_head=dict(in_channels=1024, channels=256),
)
