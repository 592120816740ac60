"""Every mistake in a config ends with exit status 2 and one paragraph that names its place, and nothing is trained.

The mistakes are those of config_mistakes_demo.txt and config_mistakes_camvid.txt: a name, lines that stand behind the
``_base_`` of a config, and words of the message.
"""

import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from helpers.checkout import ROOT

from mmseg_invattn.cli.main import main
from mmseg_invattn.engine.config_checks import ConfigError
from mmseg_invattn.experiments.compare.plan import plan_runs

QUICK = """
train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=2, dataset=dict(data_root='{data}'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=4)
param_scheduler = [dict(type='PolyLR', begin=0, end=4, by_epoch=False)]
env_cfg = dict(cudnn_benchmark=False)
"""


@pytest.fixture(scope='module')
def demo(context_shapes, tmp_path_factory):
    base = tmp_path_factory.mktemp('demo') / 'base.py'
    config = ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py'
    base.write_text(f"_base_ = '{config}'\n{QUICK.format(data=context_shapes)}")
    return base


@pytest.fixture(scope='module')
def camvid(tmp_path_factory):
    folder = tmp_path_factory.mktemp('camvid')
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, shape, top in (('images', (36, 48, 3), 256), ('labels', (36, 48), 11)):
            (folder / name / split).mkdir(parents=True)
            for i in range(2):
                file = folder / name / split / f'{i}.png'
                cv2.imwrite(str(file), generator.integers(0, top, shape, dtype=np.uint8))
    base = folder / 'base.py'
    config = ROOT / 'configs' / 'invnl' / 'invnl_r18-d8_1xb8-20k_camvid-360x480.py'
    base.write_text(f"_base_ = '{config}'\nmodel = dict(pretrained=None)\n{QUICK.format(data=folder)}")
    return base


def train(base, text, folder):
    """Exit status of the training with some lines behind the base config."""
    config = folder / 'variant.py'
    config.write_text(f"_base_ = '{base}'\n{text}\n")
    with mock.patch.object(sys, 'argv', ['mmseg-invattn']), mock.patch('mmengine.runner.Runner._log_env'):
        return main(['train', str(config), '--work-dir', str(folder / 'work')])


def mistakes(name):
    for entry in (Path(__file__).parent / f'config_mistakes_{name}.txt').read_text().split('# ')[1:]:
        title, *lines = entry.strip().splitlines()
        text = '\n'.join(line for line in lines if not line.startswith('> '))
        yield pytest.param(text, [line.removeprefix('> ') for line in lines if line.startswith('> ')], id=title)


@pytest.mark.cases(20)
@pytest.mark.parametrize('text, words', mistakes('demo'))
def test_a_mistake_in_the_demo_config(text, words, demo, tmp_path, capsys):
    is_explained(train(demo, text, tmp_path), words, tmp_path, capsys)


@pytest.mark.cases(2)
@pytest.mark.parametrize('text, words', mistakes('camvid'))
def test_a_mistake_in_a_camvid_config(text, words, camvid, tmp_path, capsys):
    is_explained(train(camvid, text, tmp_path), words, tmp_path, capsys)


def is_explained(status, words, folder, capsys):
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and last.startswith('mmseg-invattn train: ')
    assert all(word in last for word in words), last
    assert not list((folder / 'work').glob('*.pth'))


def test_testing_names_them_too(demo, tmp_path, capsys):
    config, checkpoint = tmp_path / 'variant.py', tmp_path / 'weights.pth'
    config.write_text(f"_base_ = '{demo}'\nmodel = dict(decode_head=dict(num_classes=4))\n")
    torch.save(dict(state_dict=dict(x=torch.ones(1)), meta={}), checkpoint)
    with mock.patch.object(sys, 'argv', ['mmseg-invattn']), mock.patch('mmengine.runner.Runner._log_env'):
        assert main(['test', str(config), str(checkpoint), '--work-dir', str(tmp_path / 'work')]) == 2
    assert 'model.decode_head.num_classes is 4, but test_dataloader.dataset' in capsys.readouterr().err


def test_a_comparison_names_them_before_its_first_run(demo, tmp_path):
    config = tmp_path / 'variant.py'
    config.write_text(f"_base_ = '{demo}'\noptim_wrapper = dict(optimizer=dict(lr='0.1'))\n")
    with pytest.raises(ConfigError, match="variant.py: optim_wrapper.optimizer.lr of Adam is '0.1'"):
        plan_runs([str(config)], [0], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
