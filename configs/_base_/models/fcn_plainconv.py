_base_ = './plainconv.py'
model = dict(decode_head=dict(type='FCNHead', concat_input=False))
