"""A user's own data: one config to copy, in which classes, image size and iterations stand once."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.runtime_case import run_tool
from helpers.tool_case import call_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmseg_invattn.datasets.image_size import image_size
from mmseg_invattn.paths import config_folder, find_config

NAME = 'own_data/invnl_r18_1xb8-2k_own-data-256x256.py'
EDITS = {
    'data_root': "'{data}'",
    'classes': "('sky', 'land', 'sea', 'ship')",
    'palette': '[[0, 0, 0], [0, 200, 0], [0, 0, 200], [200, 0, 0]]',
    'size': '(32, 48)',
    'batch_size': '2',
    'max_iters': '4',
}
SIZES = ((40, 64), (64, 40), (30, 90))  # of the images: smaller and larger than the crops


def write_data(root: Path) -> Path:
    """Three images a split, of several sizes, with labels 0 to 3 and 255."""
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for folder, suffix, values in (('images', 'jpg', range(256)), ('labels', 'png', (0, 1, 2, 3, 255))):
            (root / folder / split).mkdir(parents=True)
            for i, size in enumerate(SIZES):
                shape = (*size, 3) if folder == 'images' else size
                cv2.imwrite(
                    str(root / folder / split / f'{i}.{suffix}'), generator.choice(values, shape).astype(np.uint8)
                )
    return root


def edited(folder: Path, **edits: str) -> Path:
    """A copy of the config in another folder, with edits of its first lines."""
    config = folder / 'my_data.py'
    call_tool('analysis/print_config', NAME, '--copy', config, '--overwrite')
    text = config.read_text()
    for name, value in edits.items():
        text, count = re.subn(rf'(?m)^{name} = .*$', f'{name} = {value}', text)
        assert count == 1, name
    config.write_text(text)
    return config


def test_everything_follows_from_the_first_lines(tmp_path):
    cfg = Config.fromfile(edited(tmp_path, **EDITS))
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 4
    assert cfg.train_pipeline[2].num_classes == 4
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == '{data}' and dataset.metainfo.classes[3] == 'ship'
        assert len(dataset.metainfo.palette) == 4
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 2
    assert image_size(cfg) == cfg.model.data_preprocessor.size == (32, 48)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomCrop'].crop_size == (32, 48) and steps['RandomResize'].scale == (48, 32)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (48, 32)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 4 and cfg.train_cfg.val_interval == 1
    many = Config.fromfile(edited(tmp_path, max_iters='5000'))
    assert many.train_cfg.max_iters == many.param_scheduler[-1].end == 5000
    assert many.train_cfg.val_interval == many.default_hooks.checkpoint.interval == 500
    # a name without effect must not exist in the config
    assert not {*EDITS, 'lr'} & cfg.keys()


def test_a_newcomers_walk(tmp_path, monkeypatch, capsys):
    """In an empty folder: copy, edit, check, train, test, predict."""
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / 'data')
    config = edited(tmp_path, **EDITS | dict(data_root=repr(str(data))))
    call_tool('check_dataset', config)
    assert 'train: 3 images, 0 faults' in capsys.readouterr().out
    run_tool('train', config, options=('train_dataloader.num_workers=0', 'val_dataloader.num_workers=0') + QUIETLY)
    checkpoint = tmp_path / 'work_dirs' / 'my_data' / 'iter_4.pth'
    run_tool('test', config, checkpoint, options=('test_dataloader.num_workers=0',) + QUIETLY)
    assert 'ship' in capsys.readouterr().out
    call_tool('predict', config, checkpoint, data / 'images' / 'val', '--out', 'painted', '--device', 'cpu')
    label = cv2.imread('painted/2_labels.png', cv2.IMREAD_UNCHANGED)
    assert label.shape == SIZES[2] and label.max() <= 3


QUIETLY = (
    'train_dataloader.persistent_workers=False',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.persistent_workers=False',
    'env_cfg.cudnn_benchmark=False',
)


def test_without_its_small_part_it_is_a_resnet50(tmp_path):
    config = edited(tmp_path)
    lines = config.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if 'Without these four lines' in line)
    config.write_text('\n'.join(lines[:start] + lines[start + 5 :]))
    model = Config.fromfile(config).model
    assert (model.pretrained, model.backbone.depth) == ('open-mmlab://resnet50_v1c', 50)
    assert (model.decode_head.in_channels, model.decode_head.num_classes) == (2048, 3)
    init_default_scope('mmseg')
    small, model.pretrained = MODELS.build(Config.fromfile(edited(tmp_path)).model), None
    assert sum(p.numel() for p in small.parameters()) < 2e6


def test_mistakes_about_classes():
    init_default_scope('mmseg')
    for metainfo in (None, dict(), dict(classes=()), dict(classes='road')):
        with pytest.raises(ValueError, match='CheckedSegDataset got metainfo=.*needs the names of the classes'):
            DATASETS.build(dict(type='CheckedSegDataset', metainfo=metainfo))
    with pytest.raises(ValueError, match=r'has 1 colours for 2 classes \(road, car\)'):
        DATASETS.build(
            dict(type='CheckedSegDataset', metainfo=dict(classes=('road', 'car'), palette=[[0, 0, 0]]), lazy_init=True)
        )


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(NAME) == find_config(f'configs/{NAME}') == config_folder() / NAME
    Path('own.py').write_text('')
    assert find_config('own.py') == Path('own.py')
    with pytest.raises(FileNotFoundError, match=rf'own_dat/x.py: there is no such config file in {tmp_path},'):
        find_config('own_dat/x.py')
    with pytest.raises(FileNotFoundError, match=f'did you mean {NAME}'):
        find_config(NAME.replace('256x256', '256x255'))


def test_a_copy_replaces_nothing_unasked(tmp_path):
    config = edited(tmp_path)
    with pytest.raises(FileExistsError, match='my_data.py would be replaced'):
        call_tool('analysis/print_config', NAME, '--copy', config)
    for wrong in (('--copy', tmp_path / 'my_data.yaml'), ('--copy', config, '--cfg-options', 'a=1')):
        with pytest.raises(SystemExit):
            call_tool('analysis/print_config', NAME, *wrong)
    # a config with one base only
    twin = 'nonlocal/nonlocal_r101-d8_4xb2-40k_cityscapes-512x1024.py'
    call_tool('analysis/print_config', twin, '--copy', tmp_path / 'twin.py')
    assert Config.fromfile(tmp_path / 'twin.py').to_dict() == Config.fromfile(find_config(twin)).to_dict()
