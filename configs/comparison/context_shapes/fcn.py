# The control of the comparison in docs/results/context_shapes.md, on one thread of a CPU. The other heads have the same
# recipe.
_base_ = [
    '../../_base_/models/fcn_plainconv.py',
    '../../_base_/datasets/context_shapes_one_thread.py',
    '../../_base_/default_runtime.py',
    '../../_base_/schedules/schedule_demo.py',
]
