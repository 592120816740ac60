_base_ = '../../_base_/flow/cifar10.py'
model = dict(
    backbone=dict(
        attention=dict(form='paper', mode='dot_product', reduction=4), attention_stages=(0,), memory_free=False
    )
)
