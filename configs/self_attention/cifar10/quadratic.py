_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/sanet_cifar10.py',
    '../../_base_/datasets/cifar10.py',
    '../../_base_/schedules/schedule_cifar10_150k.py',
]
default_hooks = dict(checkpoint=dict(interval=5000))
# records centre and width of every head, for tools/analysis/attention_vs_conv.py
custom_hooks = [dict(type='AttentionCentreHook', interval=500)]
