_base_ = './invunet.py'
model = dict(backbone=dict(attention=dict(form='certified', mode='embedded_gaussian'), attention_stages=(4,)))
