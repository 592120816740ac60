_base_ = './nonlocal_plainconv_1xb8-1k_context-shapes-48x96.py'
model = dict(decode_head=dict(type='InvNLHead', attention=dict(form='certified', mode='embedded_gaussian')))
