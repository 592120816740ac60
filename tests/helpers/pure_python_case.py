"""The config of ``runtime_case`` in the new style: types are classes."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize, TestTimeAug
from mmengine.dataset import DefaultSampler
from mmengine.hooks import IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, RandomCrop
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, SegDataPreProcessor, SegTTAModel
from mmseg.visualization import SegLocalVisualizer
from torch.optim import AdamW

from mmseg_invattn.datasets import ResumableInfiniteSampler, SeedTransforms
from mmseg_invattn.engine.hooks import AtomicCheckpointHook, CertificateHook
from mmseg_invattn.models import InvNLHead, PlainConvNet

default_scope = 'mmseg'
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True, pad_val=0,
                           seg_pad_val=255, size=(24, 24)),
    backbone=dict(type=PlainConvNet, channels=8, strides=(2, 1)),
    decode_head=dict(type=InvNLHead, in_channels=8, channels=8, num_classes=3, in_index=0, dropout_ratio=0,
                     norm_cfg=None, concat_input=False, align_corners=False, loss_decode=dict(type=CrossEntropyLoss)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
tta_model = dict(type=SegTTAModel)
train_pipeline = [dict(type=SeedTransforms), dict(type=LoadImageFromFile), dict(type=LoadAnnotations),
                  dict(type=RandomCrop, crop_size=(24, 24)), dict(type=PackSegInputs)]
tested = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(28, 28)), dict(type=LoadAnnotations),
          dict(type=PackSegInputs)]
tta_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=TestTimeAug, transforms=[
        [dict(type=RandomFlip, prob=p, direction='horizontal') for p in (0., 1.)],
        [dict(type=LoadAnnotations)], [dict(type=PackSegInputs)]])]
data = dict(type=BaseSegDataset, data_root='{data}', img_suffix='.png', seg_map_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [0, 255, 0], [0, 0, 255]]))
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
                        dataset=dict(pipeline=train_pipeline, **data))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
                      dataset=dict(pipeline=tested, indices=4, **data))
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = [dict(type=LinearLR, start_factor=0.1, begin=0, end=1, by_epoch=False),
                   dict(type=PolyLR, eta_min=1e-4, power=0.9, begin=1, end=2, by_epoch=False)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook), visualization=dict(type=SegVisualizationHook),
    checkpoint=dict(type=AtomicCheckpointHook, by_epoch=False, interval=2),
    certificate=dict(type=CertificateHook, interval=2))
vis_backends = [dict(type=LocalVisBackend)]
visualizer = dict(type=SegLocalVisualizer, vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
"""


def write_pure_python_config(folder: Path) -> str:
    """The config's path; ``folder`` is one that ``runtime_case.write_case`` has filled."""
    path = folder / 'pure.py'
    path.write_text(CONFIG.replace('{data}', str(folder / 'data')))
    return str(path)
