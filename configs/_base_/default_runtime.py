# Settings that all configs share. A config can change single entries, for example
#   default_hooks = dict(checkpoint=dict(interval=8000), certificate=dict(interval=1000))
# The hooks of this project are in default_hooks too, because its entries are merged. So custom_hooks = [...] in a
# config does not replace them.
custom_imports = dict(imports=['mmseg_invattn'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='SignificantLogProcessor', by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
# a run is determined by its config and seed; for another seed: --cfg-options randomness.seed=1
randomness = dict(seed=0)
# BN becomes SyncBN only if training is distributed over GPUs
sync_bn = 'torch'

tta_model = dict(type='SegTTAModel')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=4000, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    constant_weights=dict(type='ConstantWeightsHook'),
    visualization=dict(type='SegVisualizationHook'),
    iteration_seed=dict(type='IterationSeedHook'),
    non_finite_loss=dict(type='NonFiniteLossHook'),
    dataset_check=dict(type='DatasetCheckHook'),
    certificate=dict(type='CertificateHook', interval=200, max_val_images=8),
)
