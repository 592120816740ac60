"""Settings that leave no trace in the weights: the config's are compared with those in the checkpoint."""

import json
from unittest import mock

import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from helpers.tool_case import attention_config, write_weights
from mmengine.config import Config

from mmseg_invattn.engine.config_file import apply_options
from mmseg_invattn.engine.inference import init_model
from mmseg_invattn.engine.settings import differing_settings, warn_of_settings


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """A config with certified attention, and weights that carry it."""
    folder = tmp_path_factory.mktemp('settings')
    config = attention_config(folder, write_case(folder), form='certified')
    path = write_weights(config, folder / 'weights.pth')
    content = torch.load(path, weights_only=True)
    content['meta'] = dict(config=Config.fromfile(config).pretty_text)
    torch.save(content, path)
    return str(config), path


@pytest.mark.parametrize(
    'path, value, said',
    [
        ('model.decode_head.attention.contraction', 0.5, '0.5 now and was 0.9'),
        ('model.decode_head.attention.sharpness', 3.0, '3.0 now and was 1.0'),
        ('model.data_preprocessor.bgr_to_rgb', False, 'False now and was True'),
        ('model.data_preprocessor.mean', [0.0, 0.0, 0.0], '[0.0, 0.0, 0.0] now and was [120.0, 120.0, 120.0]'),
        ('model.backbone.strides', (2,), '(2,) now and was (1,)'),
        ('model.backbone.dilations', [2], '[2] now and was (1,)'),
        ('model.decode_head.align_corners', True, 'True now and was False'),
        ('model.decode_head.norm_cfg.num_groups', 4, '4 now and was 2'),
        ('model.test_cfg.mode', 'slide', "'slide' now and was 'whole'"),
        ('model.backbone.contract_dilation', True, 'True now and was False'),
        ('test_dataloader.dataset.pipeline.0.imdecode_backend', 'pillow', "'pillow' now and was 'cv2'"),
        ('test_dataloader.dataset.pipeline.0.color_type', 'unchanged', "'unchanged' now and was 'color'"),
    ],
)
def test_every_kind_is_found_with_both_values(case, path, value, said):
    cfg = Config.fromfile(case[0])
    apply_options(cfg, {f'+{path}': value}, 'x')
    warn = mock.Mock()
    warn_of_settings(cfg, torch.load(case[1], weights_only=True), 'x.pth', warn)
    ((text,),) = (call.args for call in warn.call_args_list)
    assert 'x.pth was trained with other settings' in text
    assert path.removeprefix('test_dataloader.dataset.pipeline.0') in text and f' is {said}.' in text


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'model.decode_head.attention.contraction': 0.9},  # as by default
        {'model.backbone.strides': [1]},
        {'model.pretrained': 'x.pth', 'model.decode_head.dropout_ratio': 0.7, 'model.backbone.with_cp': True},
        {'model.decode_head.loss_decode.loss_weight': 3.0, 'model.train_cfg': None},
        {'test_dataloader.dataset.pipeline.0.type': 'StrictLoadImageFromFile', 'test_dataloader.batch_size': 2},
        {'test_dataloader.dataset.data_root': '/elsewhere', 'optim_wrapper.optimizer.lr': 1.0},
    ],
)
def test_what_does_not_change_the_model_is_not_said(case, changes):
    cfg = Config.fromfile(case[0])
    cfg.merge_from_dict(changes) if not any('.0.' in key for key in changes) else apply_options(cfg, changes, 'x')
    assert differing_settings(cfg, Config.fromfile(case[0]).to_dict()) == []


def test_wrappers_are_looked_through(case):
    trained, cfg = Config.fromfile(case[0]).to_dict(), Config.fromfile(case[0])
    cfg.model.data_preprocessor.bgr_to_rgb = False
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dict(cfg.test_dataloader.dataset)])
    cfg.test_dataloader.dataset.datasets[0].pipeline = cfg.tta_pipeline
    assert [one.path for one in differing_settings(cfg, trained)] == ['model.data_preprocessor.bgr_to_rgb']


def test_a_long_list_is_cut_and_no_config_says_nothing(case):
    cfg = Config.fromfile(case[0])
    cfg.model.test_cfg = {f'option{n}': n for n in range(12)}
    warn = mock.Mock()
    warn_of_settings(cfg, torch.load(case[1], weights_only=True), 'x.pth', warn)
    assert warn.call_args.args[0].count(' now and was ') == 8 and 'and 5 more' in warn.call_args.args[0]
    warn_of_settings(cfg, dict(meta={}), 'x.pth', warn)
    assert warn.call_count == 1


def test_on_the_command_line(case, tmp_path):
    options = ('+model.decode_head.attention.contraction=0.5',)
    run_tool('test', case[0], case[1], '--work-dir', tmp_path, options=options)
    (log,) = tmp_path.glob('*/*.log')
    assert 'model.decode_head.attention.contraction is 0.5 now and was 0.9' in log.read_text()
    assert json.loads(next(tmp_path.glob('*/*.json')).read_text())['aAcc'] > 0  # it goes on
    cfg = Config.fromfile(case[0])
    cfg.model.data_preprocessor.bgr_to_rgb = False
    with mock.patch('mmseg_invattn.engine.inference.print_log') as log:
        init_model(cfg, str(case[1]), 'cpu')
    assert 'bgr_to_rgb is False now and was True' in str(log.mock_calls)
