_base_ = [
    '../_base_/models/fcn_plainconv.py',
    '../_base_/datasets/context_shapes.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_demo.py',
]
default_hooks = dict(checkpoint=dict(interval=500, max_keep_ckpts=1))
