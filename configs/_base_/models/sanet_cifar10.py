# model settings: 6 layers with 9 heads and 400 channels, on patches of 2 x 2 pixels
data_preprocessor = dict(
    type='ImgDataPreprocessor', mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], bgr_to_rgb=False
)
model = dict(
    type='ImageClassifier',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='SelfAttentionNet',
        patch_size=2,
        channels=400,
        num_layers=6,
        num_heads=9,
        feedforward_channels=512,
        attention=dict(encoding='quadratic', dropout=0.1),
        dropout=0.1,
    ),
    in_channels=400,
    num_classes=10,
)
