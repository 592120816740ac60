_base_ = './fcn_sanet-quadratic_4xb2-80k_cityscapes-512x1024.py'
# the weights of every image are its own: in windows of 16 x 16 pixels
model = dict(
    backbone=dict(
        attention=dict(
            _delete_=True,
            encoding='learned_2d',
            position_size=16,
            position_channels=240,
            content='both',
            key_channels=32,
            window=16,
        )
    )
)
