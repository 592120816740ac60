"""Every config: its name, its place in the metafiles, its model, the recipe of its twin.

All configs are read, and every different model is built. test_configs_steps.py trains and predicts with them.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from helpers.checkout import ROOT
from helpers.config_cases import CONFIGS, FOLDERS, NAME
from helpers.config_steps import shrink
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, MODELS

# In the names of the files -> data set and its name in the metafiles.
DATA = {
    'ade20k': ('ADE20KDataset', 'ADE20K'),
    'camvid': ('CamVidDataset', 'CamVid'),
    'cityscapes': ('CityscapesDataset', 'Cityscapes'),
    'coco-stuff164k': ('COCOStuffDataset', 'COCO-Stuff 164k'),
    'context-shapes': ('ContextShapesDataset', 'Context shapes'),
    'pascal-context': ('PascalContextDataset', 'Pascal Context'),
    'pascal-context-59': ('PascalContextDataset59', 'Pascal Context 59'),
    'voc12aug': ('PascalVOCDataset', 'Pascal VOC 2012 + Aug'),
}
# The twin of each method, trained by the same recipe, and the keys of the head in which they may differ.
TWINS = {
    'invnl': 'nonlocal',
    'invda': 'danet',
    'invdeeplabv3': 'deeplabv3',
    'invdeeplabv3plus': 'deeplabv3plus',
    'invpspnet': 'pspnet',
}
ATTENTION_KEYS = {'type', 'attention', 'spread', 'num_blocks', 'mode', 'reduction', 'use_scale'}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@cache
def load(path: Path) -> Config:
    return Config.fromfile(path)


def test_name_says_what_the_config_does():
    assert len(CONFIGS) > 100
    for path in CONFIGS:
        name, cfg = NAME.fullmatch(path.stem), load(path)
        assert name, path.stem
        dataset, loader = cfg.train_dataloader.dataset, cfg.train_dataloader
        dataset = dataset.get('datasets', [dataset])[0]
        size = (int(name['height']), int(name['width']))
        classes = cfg.num_classes
        assert dataset.type == DATA[name['data']][0]
        assert loader.batch_size == int(name['batch'])
        assert cfg.auto_scale_lr.base_batch_size == int(name['batch']) * int(name['gpus'])
        assert cfg.train_cfg.max_iters == int(name['iters']) * 1000
        assert size == cfg.get('crop_size', size)
        multiple = cfg.model.data_preprocessor.get('test_cfg', {}).get('size_divisor', 1)
        assert cfg.model.data_preprocessor.size == tuple(-(-side // multiple) * multiple for side in size)
        heads = [cfg.model.decode_head, *([cfg.model.auxiliary_head] if 'auxiliary_head' in cfg.model else [])]
        assert {head.num_classes for head in heads} == {classes}
        if name['backbone'].startswith('r') and name['backbone'].endswith('-d8'):
            depth = int(name['backbone'][1:-3])
            assert (cfg.model.backbone.depth, cfg.model.pretrained) == (depth, f'open-mmlab://resnet{depth}_v1c')


def test_config_is_self_contained():
    """The package is imported by the config itself, and all of its names are registered."""
    for path in CONFIGS:
        cfg = load(path)
        assert cfg.custom_imports == dict(imports=['mmseg_invattn'], allow_failed_imports=False)
        assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
        assert all(HOOKS.get(hook.type) for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks])
        for split in ('train', 'val', 'test'):
            assert DATASETS.get(cfg[f'{split}_dataloader'].dataset.type)
        assert 'mmseg::' not in path.read_text()


def test_every_model_builds():
    """On the meta device, where weights take neither time nor memory."""
    models = {str(load(path).model): path for path in CONFIGS}
    for path in models.values():
        model = shrink(load(path).model.copy())
        with torch.device('meta'):
            built = MODELS.build(model)
        assert built.decode_head.conv_seg.out_channels == load(path).num_classes, path.stem


def test_twin_has_the_same_recipe():
    pairs = 0
    for path in CONFIGS:
        algo, rest = path.stem.split('_', 1)
        twin = TWINS.get(algo.split('-')[0])
        if twin is None or path.parent.name == 'demo':
            continue
        ours, theirs = load(path).to_dict(), load(ROOT / 'configs' / twin / f'{twin}_{rest}.py').to_dict()
        heads = [cfg['model'].pop('decode_head') for cfg in (ours, theirs)]
        assert ours == theirs, path.stem
        plain = [{k: v for k, v in head.items() if k not in ATTENTION_KEYS} for head in heads]
        assert plain[0] == plain[1], path.stem
        assert 'attention' in heads[0] and 'attention' not in heads[1]
        pairs += 1
    assert pairs > 50


def test_metafiles_list_every_config_once():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == [f'configs/{folder.name}/metafile.yaml' for folder in FOLDERS]
    metafiles = [yaml.safe_load((ROOT / path).read_text()) for path in index['Import']]
    collections = [c for metafile in metafiles for c in metafile.get('Collections', [])]
    names = [c['Name'] for c in collections]
    assert len(names) == len(set(names))
    models = [model for metafile in metafiles for model in metafile['Models']]
    assert sorted(model['Config'] for model in models) == [str(path.relative_to(ROOT)) for path in CONFIGS]
    for model in models:
        name = NAME.fullmatch(model['Name'])
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] in names
        metadata = model['Metadata']
        assert metadata['Training Data'] == DATA[name['data']][1]
        assert metadata['Batch Size'] == int(name['gpus']) * int(name['batch'])
        if name['backbone'].endswith('-d8'):
            assert metadata['Architecture'] == [name['backbone'].upper().replace('R', 'R-', 1), model['In Collection']]
        assert model['Paper']['URL'].startswith('https://arxiv.org/abs/')
        assert model['Code'].startswith('https://') or (ROOT / model['Code']).is_file(), model['Code']
    for metafile in metafiles:
        for collection in metafile.get('Collections', []):
            trained = {model['Metadata']['Training Data'] for model in metafile['Models']}
            assert set(collection['Metadata']['Training Data']) == trained
