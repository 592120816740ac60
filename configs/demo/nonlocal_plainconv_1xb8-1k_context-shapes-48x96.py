_base_ = './fcn_plainconv_1xb8-1k_context-shapes-48x96.py'
model = dict(decode_head=dict(type='NLHead'))
