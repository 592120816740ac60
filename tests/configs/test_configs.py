"""Every config: its name, its model, the size of its images.

All configs are read, and every different model is built. test_configs_steps.py trains and predicts with them,
test_configs_said_once.py compares them with each other.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from helpers.config_cases import CONFIGS, FOLDER, NAME, SHORT, load
from helpers.config_steps import shrink
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, MODELS

from mmseg_invattn.datasets.image_size import image_size
from mmseg_invattn.engine.config_checks import ConfigError, check_config

# In the names of the files -> data set.
DATA = {
    'ade20k': 'ADE20KDataset',
    'camvid': 'CamVidDataset',
    'cityscapes': 'CityscapesDataset',
    'coco-stuff164k': 'COCOStuffDataset',
    'context-shapes': 'ContextShapesDataset',
    'own-data': 'CheckedSegDataset',
    'pascal-context': 'PascalContextDataset',
    'pascal-context-59': 'PascalContextDataset59',
    'voc12aug': 'PascalVOCDataset',
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def number_of_classes(cfg: Config) -> int:
    """Of the data set."""
    return cfg.num_classes if 'num_classes' in cfg else len(cfg.train_dataloader.dataset.metainfo.classes)


def padded_size(cfg: Config, name: re.Match) -> tuple[int, int]:
    """The size that the name says, up to the next multiple that the model takes."""
    multiple = cfg.model.data_preprocessor.get('test_cfg', {}).get('size_divisor', 1)
    return tuple(-(-int(name[side]) // multiple) * multiple for side in ('height', 'width'))


def test_name_says_what_the_config_does():
    assert len(CONFIGS) > 100
    for path in CONFIGS:
        name, cfg = NAME.fullmatch(path.stem), load(path)
        assert name, path.stem
        dataset, loader = cfg.train_dataloader.dataset, cfg.train_dataloader
        dataset = dataset.get('datasets', [dataset])[0]
        assert dataset.type == DATA[name['data']]
        assert loader.batch_size == int(name['batch'])
        assert cfg.auto_scale_lr.base_batch_size == int(name['batch']) * int(name['gpus'])
        assert cfg.train_cfg.max_iters == int(name['iters']) * 1000
        assert cfg.model.data_preprocessor.size == image_size(cfg) == padded_size(cfg, name)
        heads = [cfg.model.decode_head, *([cfg.model.auxiliary_head] if 'auxiliary_head' in cfg.model else [])]
        assert {head.num_classes for head in heads} == {number_of_classes(cfg)}
        assert (cfg.optim_wrapper.type == 'AmpOptimWrapper') == bool(name['amp'])
        invertible = cfg.model.decode_head.get('attention', {})
        assert invertible.get('precision') == ('autocast' if name['amp'] and invertible else None)
        if name['backbone'].startswith('r') and name['backbone'].endswith('-d8'):
            depth = int(name['backbone'][1:-3])
            assert (cfg.model.backbone.depth, cfg.model.pretrained) == (depth, f'open-mmlab://resnet{depth}_v1c')


def test_backbone_with_weights_from_a_package_gets_the_images_that_it_was_trained_with():
    found = [load(path).model for path in (*CONFIGS, *SHORT) if load(path).model.backbone.type == 'EfficientNetLite']
    assert len(found) == 36
    out_channels = {}
    for model in found:
        assert model.pretrained == 'package' and model.data_preprocessor.bgr_to_rgb
        assert (model.data_preprocessor.mean, model.data_preprocessor.std) == ([127.0] * 3, [128.0] * 3)
        backbone, head = str(model.backbone), model.decode_head
        if backbone not in out_channels:
            with torch.device('meta'):
                out_channels[backbone] = MODELS.build(dict(model.backbone)).out_channels
        channels = out_channels[backbone]
        assert (head.c1_in_channels, head.in_channels) == (channels[0], channels[head.in_index])


def test_short_comparison_has_the_heads_of_the_full_one():
    """Head and attention are the same; images, stride, schedule and what is frozen differ."""
    short = [path for path in SHORT if path.match('comparison/camvid/*.py')]
    assert len(short) == 9
    for data in ('1xb8-20k_camvid-360x480', '4xb2-40k_cityscapes-512x1024'):
        full = {path.stem.split('_')[0]: path for path in CONFIGS if path.match(f'comparison/*-d8_{data}.py')}
        assert full.keys() == {path.stem for path in short}
        for path in short:
            one, other = copy.deepcopy(load(path).model), copy.deepcopy(load(full[path.stem]).model)
            assert (one.backbone.pop('output_stride'), other.backbone.pop('output_stride')) == (32, 8)
            for model in (one, other):
                model.data_preprocessor.pop('size')
                for name in ('frozen_stages', 'norm_eval'):
                    model.backbone.pop(name, None)
                model.decode_head.pop('num_classes')
                model.decode_head.loss_decode.pop('class_weight', None)
            assert one == other, path.stem


def test_comparison_on_a_frozen_backbone_has_the_heads_of_the_other_and_trains_on_no_validation_image():
    short = {path.stem: path for path in SHORT if path.match('comparison/camvid/*.py')}
    frozen = {path.stem: path for path in SHORT if path.match('comparison/camvid_frozen/*.py')}
    assert frozen.keys() == short.keys()
    for name, path in frozen.items():
        cfg = load(path)
        one, other = copy.deepcopy(cfg.model.decode_head), copy.deepcopy(load(short[name]).model.decode_head)
        for head in (one, other):
            for width in ('in_channels', 'in_index', 'c1_in_channels'):
                head.pop(width)
        assert one == other, name
        train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
        assert train.data_prefix == val.data_prefix == dict(img_path='images/train', seg_map_path='labels/train')
        assert sorted(train.indices + val.indices) == list(range(367)) and len(val.indices) == 73
        with torch.device('meta'):
            backbone = MODELS.build(dict(cfg.model.backbone))
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_config_is_self_contained():
    """The package is imported by the config itself, and all of its names are registered."""
    for path in (*CONFIGS, *SHORT):
        cfg = load(path)
        assert cfg.custom_imports == dict(imports=['mmseg_invattn'], allow_failed_imports=False)
        assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
        assert all(HOOKS.get(hook.type) for hook in cfg.default_hooks.values())
        for split in ('train', 'val', 'test'):
            assert DATASETS.get(cfg[f'{split}_dataloader'].dataset.type)
        assert 'mmseg::' not in path.read_text()


def mistake(path: Path) -> str | None:
    """What the checks before a run say of a config."""
    try:
        check_config(load(path))
    except ConfigError as error:
        return str(error)


def test_the_checks_before_a_run_find_no_mistake():
    found = {path.stem: mistake(path) for path in (*CONFIGS, *SHORT)}
    assert not {name: said for name, said in found.items() if said}


def test_every_model_builds():
    """On the meta device, where weights take no memory. Depths of a backbone are tried once."""
    models = {re.sub(r"'depth': \d+", '', str(load(path).model)): path for path in (*CONFIGS, *SHORT)}
    for path in models.values():
        model = shrink(copy.deepcopy(load(path).model))
        with torch.device('meta'):
            built = MODELS.build(model)
        assert built.decode_head.conv_seg.out_channels == number_of_classes(load(path)), path.stem


def test_size_of_images_comes_from_the_pipelines():
    """Not from variables that a base config used. What the preprocessor pads to counts where it is larger."""
    base = dict(crop_size=(7, 7), model=dict(data_preprocessor=dict(size=(64, 96))))

    def size(*steps: dict, split: str = 'train', **model: object) -> tuple[int, int]:
        loader = {f'{split}_dataloader': dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=list(steps))))}
        return image_size(Config(dict(base, **loader, **({'model': model} if model else {}))))

    resize, crop = dict(type='RandomResize', scale=(200, 100)), dict(type='RandomCrop', crop_size=(80, 48))
    assert size() == (64, 96)
    assert size(resize) == (100, 200)
    assert size(resize, crop) == (80, 96)
    assert size(resize, crop, type='Other') == (80, 48)
    assert size(dict(type='CenterCrop', crop_size=(30, 20)), type='Other') == (20, 30)
    assert size(resize, dict(type='Pad', size_divisor=32), type='Other') == (100, 200)
    assert size(dict(type='RandomResize', scale=[(200, 100), (400, 200)]), crop, type='Other') == (80, 48)
    assert size(resize, split='test', type='Other') == (100, 200)
    assert size(image_size=(8, 8)) == (8, 8)
    with pytest.raises(ValueError, match='names no image size.* --shape H W'):
        size(dict(type='RandomResize', scale=[(200, 100), (400, 200)]), type='Other')
    for name, side in (('cifar10', 32), ('cifar10_8x8', 8), ('cifar10_small', 32)):
        assert image_size(load(FOLDER / 'flow' / f'{name}.py')) == (side, side)
