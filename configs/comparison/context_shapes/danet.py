_base_ = [
    '../../_base_/models/plainconv.py',
    '../../_base_/datasets/context_shapes_one_thread.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_demo.py',
]
model = dict(decode_head=dict(type='InvDAHead', attention=dict(form='none')))
