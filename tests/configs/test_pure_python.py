"""Configs of the new style, whose types are classes, in every place that asks for the name of a type."""

import json

import pytest
from helpers.pure_python_case import write_pure_python_config
from helpers.runtime_case import run_tool, write_case
from helpers.tool_case import call_tool
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmseg_invattn import compat
from mmseg_invattn.cli import test, train
from mmseg_invattn.compat import type_name
from mmseg_invattn.datasets.image_size import image_size
from mmseg_invattn.engine.config_checks.schedule import remarks
from mmseg_invattn.experiments.compare.pairing import SAMPLER, _pipelines


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pure')
    write_case(folder)
    return write_pure_python_config(folder)


def test_names_of_types():
    for kind in (OptimWrapper, 'OptimWrapper', 'mmengine.OptimWrapper', dict(type='mmengine.optim.OptimWrapper')):
        assert type_name(kind) == 'OptimWrapper'
    assert type_name(None) == type_name({}) == '' and type_name(dict(type=len)) == 'len'


@pytest.mark.parametrize('kind', [OptimWrapper, 'OptimWrapper', 'mmengine.OptimWrapper', None])
def test_mixed_precision(monkeypatch, kind):
    monkeypatch.setattr(train, 'mixed_precision_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type=kind) if kind else {}))
    train.enable_mixed_precision(cfg, True)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    with pytest.raises(ValueError, match="this config has 'SGD'"):
        train.enable_mixed_precision(Config(dict(optim_wrapper=dict(type='SGD'))), True)
    monkeypatch.setattr(train, 'mixed_precision_available', lambda: False)
    with pytest.raises(ValueError, match='needs a GPU'):
        train.enable_mixed_precision(Config(dict(optim_wrapper=dict(type=AmpOptimWrapper))), False)


def test_places_that_ask_for_a_name(config):
    cfg = Config.fromfile(config)
    assert image_size(cfg) == (24, 24)
    cfg.model.data_preprocessor.pop('size')
    assert image_size(cfg) == (24, 24)  # of RandomCrop
    assert remarks(cfg) == []  # LinearLR is known for a warm-up
    assert type_name(cfg.train_dataloader.sampler) == SAMPLER
    assert type_name(next(_pipelines(cfg.train_dataloader.dataset))[0]) == 'SeedTransforms'
    assert compat._replace_sync_bn(dict(norm_cfg=dict(type='mmseg.SyncBN'))) == 1
    test.enable_tta(cfg)
    assert type_name(cfg.model) == 'MeanTTAModel'


def test_training_and_the_tools(config, tmp_path):
    """A run, its test with augmentation, and what is read by the same pipeline elsewhere."""
    run_tool('train', config, '--work-dir', tmp_path / 'run')
    weights = tmp_path / 'run' / 'iter_2.pth'
    out, show = tmp_path / 'out', tmp_path / 'show'
    run_tool('test', config, weights, '--work-dir', tmp_path / 'work', '--out', out, '--show-dir', show, '--tta')
    assert len(list(out.glob('*.png'))) == 4 and len(list(show.rglob('*.png'))) == 4
    assert 0 < json.loads(next((tmp_path / 'work').glob('*/*.json')).read_text())['aAcc'] < 100
    image = Config.fromfile(config).data.data_root + '/images/0.png'
    assert call_tool('predict', config, weights, image, '--out', tmp_path / 'seen') == 0
    assert call_tool('invert', config, weights, image, '--out', tmp_path / 'inverse') == 0
