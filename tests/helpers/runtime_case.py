"""A training run small enough for a test: eight random images, a narrow ResNet, and the tools run on them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import cv2
import numpy as np
import torch
from helpers.checkout import ROOT
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

RUNS = itertools.count()

# tools/NAME.py -> the subcommand that does its work
CALLED = re.compile(r"run\('([a-z -]+)'\)")

CONFIG = """
_base_ = ['{root}/configs/_base_/default_runtime.py']
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True, pad_val=0,
                           seg_pad_val=255, size=(24, 24)),
    backbone=dict(type='ResNet', depth=18, base_channels=8, num_stages=1, strides=(1, ), dilations=(1, ),
                  out_indices=(0, ), norm_cfg=dict(type='GN', num_groups=2)),
    decode_head=dict(type='FCNHead', in_channels=8, channels=8, num_convs=1, num_classes=3, concat_input=False,
                     dropout_ratio={dropout}, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
train_pipeline = [
    dict(type='SeedTransforms'), dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(24, 24)), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=1.0, keep_ratio=True)],
        [dict(type='RandomFlip', prob=0., direction='horizontal'),
         dict(type='RandomFlip', prob=1., direction='horizontal')],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
data = dict(type='BaseSegDataset', data_root='{data}', img_suffix='.png', seg_map_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [0, 255, 0], [0, 0, 255]]))
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
                        dataset=dict(pipeline=train_pipeline, **data))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(pipeline=test_pipeline, indices=4, **data))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=6, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=-1), logger=dict(interval=1))
# the runs of a test process share the machine with others: leave its settings alone
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
"""


def write_case(folder: Path, dropout: float = 0.5) -> str:
    """Write images, labels and the config.

    Args:
        folder: Where to.
        dropout: Dropout of the head.

    Returns:
        The config's path.
    """
    generator = np.random.default_rng(0)
    for name, shape, top in (('images', (28, 28, 3), 256), ('labels', (28, 28), 3)):
        (folder / 'data' / name).mkdir(parents=True)
        for i in range(8):
            cv2.imwrite(str(folder / 'data' / name / f'{i}.png'), generator.integers(0, top, shape, dtype=np.uint8))
    config = folder / 'tiny.py'
    config.write_text(CONFIG.format(root=ROOT, data=folder / 'data', dropout=dropout))
    return str(config)


def load_tool(name: str) -> ModuleType:
    """The module of the subcommand that tools/NAME.py calls."""
    command = CALLED.search((ROOT / 'tools' / f'{name}.py').read_text(encoding='utf-8'))[1]
    return importlib.import_module(f'mmseg_invattn.cli.{command.replace(" ", ".").replace("-", "_")}')


def run_tool(name: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> None:
    """Run tools/NAME.py in this process.

    Args:
        name: NAME, of a tool that takes ``--cfg-options``.
        arguments: The command line.
        options: More ``--cfg-options``. Names are added, since MMEngine would share the message hub of two runs that
            start within the same second, and the visualizer of all runs.
    """
    tool = load_tool(name)
    run = f'run{next(RUNS)}'
    line = [name, *map(str, arguments), '--cfg-options', f'experiment_name={run}', f'visualizer.name={run}', *options]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small to share out
    try:
        with mock.patch.object(sys, 'argv', line), mock.patch.dict(os.environ), configs_laid_out_quickly():
            tool.main()
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def configs_laid_out_quickly():
    """Keep yapf from taking most of the time of so short a run: it lays out the config for every checkpoint."""
    places = ('yapf.yapflib.yapf_api.FormatCode', 'mmengine.config.config.FormatCode')  # imported late, or early
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(mock.patch(place, lambda text, **kwargs: (text, True), create=True))
        yield


def stop_workers() -> None:
    """Stop the workers of past runs; left to the garbage collector, each would be waited for during 5 seconds."""
    for thing in gc.get_objects():
        if isinstance(thing, _MultiProcessingDataLoaderIter):
            thing._shutdown_workers()


def tool_environment(**more: str) -> dict[str, str]:
    """Environment for tools run as processes: this package, this Python first, one thread."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{ROOT / "tests"}', PATH=path, OMP_NUM_THREADS='1', **more)
