_base_ = './r50-d8.py'
model = dict(decode_head=dict(type='DAHead', pam_channels=64))
