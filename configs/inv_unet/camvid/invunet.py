_base_ = './unet.py'
# the activations are stored: at this size they fit anywhere, the gradients are the same, and a step is faster
model = dict(backbone=dict(type='InvUNet', memory_free=False))
