_base_ = './nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py'
# bfloat16 has the range of float32, so the loss needs no scaling
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
