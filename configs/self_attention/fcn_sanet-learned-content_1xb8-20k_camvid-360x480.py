_base_ = './fcn_sanet-quadratic_1xb8-20k_camvid-360x480.py'
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
