"""The data sets, and the base configs that use them, on real files."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.checkout import ROOT
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.apis import inference_model
from mmseg.registry import DATASETS, MODELS

from mmseg_invattn.datasets import CamVidDataset, ContextShapesDataset

BASES = ROOT / 'configs' / '_base_' / 'datasets'
CLASSES = {'context_shapes': 3, 'camvid_360x480': 11, 'cityscapes_512x1024': 19}


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def _base(name: str, root: Path) -> Config:
    config = Config.fromfile(BASES / f'{name}.py')
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.data_root = str(root)
    return config


def test_context_shapes_config(context_shapes):
    config = _base('context_shapes', context_shapes)
    for split, count in (('train', 16), ('val', 8), ('test', 8)):
        config[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        loader = Runner.build_dataloader(config[f'{split}_dataloader'], seed=0)
        assert len(loader.dataset) == count
        batch = next(iter(loader))
        assert len(batch['inputs']) == (8 if split == 'train' else count)
        assert batch['inputs'][0].shape == (3, 48, 96)
        assert set(batch['data_samples'][0].gt_sem_seg.data.unique().tolist()) <= {0, 1, 2}
    assert loader.dataset.metainfo['classes'] == ('background', 'shape_a', 'shape_b')
    assert isinstance(loader.sampler, DefaultSampler)


@pytest.mark.parametrize('name', CLASSES)
def test_configs_are_consistent(name):
    config = Config.fromfile(BASES / f'{name}.py')
    types = [step.type for step in config.train_pipeline]
    assert types[:3] == ['SeedTransforms', 'StrictLoadImageFromFile', 'StrictLoadAnnotations']
    cls = DATASETS.get(config.dataset_type)
    assert config.num_classes == config.train_pipeline[2].num_classes == CLASSES[name] == len(cls.METAINFO['classes'])
    assert len(cls.METAINFO['palette']) == CLASSES[name]
    assert config.train_dataloader.sampler.type == 'ResumableInfiniteSampler'
    # MMSegmentation's inference looks for these names.
    assert [step.type for step in config.test_dataloader.dataset.pipeline][0] == 'LoadImageFromFile'
    assert 'LoadAnnotations' in [step.type for step in config.test_dataloader.dataset.pipeline]


@pytest.mark.parametrize('name', CLASSES)
def test_inference_works_with_the_test_pipeline(name):
    config = Config.fromfile(BASES / f'{name}.py')
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(
                type='ResNet', depth=18, base_channels=4, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)
            ),
            decode_head=dict(
                type='FCNHead',
                in_channels=4,
                channels=4,
                num_convs=1,
                concat_input=False,
                num_classes=CLASSES[name],
                norm_cfg=dict(type='BN'),
            ),
            test_cfg=dict(mode='whole'),
        )
    )
    model.cfg = config
    result = inference_model(model.eval(), np.zeros((24, 48, 3), np.uint8))
    assert result.pred_sem_seg.data.shape == (1, 24, 48)


def test_context_shapes_classes(tmp_path, context_shapes):
    prefix = dict(img_path='images/val', seg_map_path='annotations/val')
    with pytest.raises(ValueError, match=r'meta\.json says num_classes=3.*num_classes=5.*Fix: '):
        ContextShapesDataset(num_classes=5, data_root=str(context_shapes), data_prefix=prefix)
    root = tmp_path / 'five'
    shutil.copytree(context_shapes, root)
    meta = json.loads((root / 'meta.json').read_text())
    meta['arguments']['num_classes'] = 5
    (root / 'meta.json').write_text(json.dumps(meta))
    dataset = ContextShapesDataset(num_classes=5, data_root=str(root), data_prefix=prefix)
    assert dataset.metainfo['classes'][-1] == 'shape_d' and len(dataset.metainfo['palette']) == 5
    assert dataset.label_map is None
    for count in (1, 10):
        with pytest.raises(ValueError, match=f'num_classes is {count}'):
            ContextShapesDataset(num_classes=count, lazy_init=True)
    chosen = ContextShapesDataset(metainfo=dict(classes=('shape_b', 'background')), lazy_init=True)
    assert chosen.label_map == {0: 1, 1: 255, 2: 0}


def test_camvid_suffix(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / 'labels' / 'a.png'), np.zeros((4, 4), np.uint8))
    arguments = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='labels'))
    for suffix in ('.png', '.jpg', '.jpeg'):
        path = tmp_path / 'images' / f'a{suffix}'
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
        dataset = CamVidDataset(**arguments)
        assert [dataset[0]['img_path'], dataset[0]['seg_map_path']] == [str(path), str(tmp_path / 'labels' / 'a.png')]
        path.unlink()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'images' / 'b.jpg'), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r'several suffixes: a\.png, b\.jpg.*Fix: '):
        CamVidDataset(**arguments)
    assert len(CamVidDataset(img_suffix='.jpg', **arguments)) == 1


def test_camvid_sample(data_root):
    config = _base('camvid_360x480', data_root / 'camvid')
    train, val = (DATASETS.build(config[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert (len(train), len(val)) == (367, 101)
    for index in (0, 200):
        sample = train[index]
        assert sample['inputs'].shape[1] <= 360 and sample['inputs'].shape[2] <= 480
        assert sample['data_samples'].gt_sem_seg.shape == sample['inputs'].shape[1:]
    sample = val[0]
    assert sample['inputs'].shape == (3, 360, 480)
    labels = set(sample['data_samples'].gt_sem_seg.data.unique().tolist())
    assert labels <= set(range(11)) | {255} and {0, 1, 3} <= labels
    augmented = DATASETS.build(dict(config.val_dataloader.dataset, pipeline=config.tta_pipeline))[0]
    assert len(augmented['inputs']) == 12
