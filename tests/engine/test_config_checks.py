"""The checks of a config change nothing and cost little; tests/configs/ has them pass every config of this package."""

import copy
import random

import numpy as np
import pytest
import torch
from helpers.tiny_segmentor import build_segmentor
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_invattn.engine.config_checks import ConfigError, check_config, explained
from mmseg_invattn.engine.config_checks.model import check_model
from mmseg_invattn.engine.config_checks.schedule import remarks
from mmseg_invattn.engine.inference import init_model

POLY = dict(type='PolyLR', by_epoch=False)


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'paper', 'none'])
def test_the_forward_pass_leaves_everything_as_it_is(form):
    model = build_segmentor(dict(form=form))
    model.decode_head.dropout = torch.nn.Dropout2d(0.5)
    model.backbone.layers.append(torch.nn.BatchNorm2d(8))
    model.train()
    model.decode_head.attention.eval()
    modes = [module.training for module in model.modules()]
    state, states = (
        copy.deepcopy(model.state_dict()),
        (torch.get_rng_state(), np.random.get_state()[1], random.getstate()),
    )
    check_model(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all()


def test_a_start_from_the_data_is_left_to_training():
    model = build_segmentor()
    for module in model.modules():
        if hasattr(module, 'initialised'):
            module.initialised.fill_(False)
            module._settled = False
    before = copy.deepcopy(model.state_dict())
    check_model(model.train())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(name.endswith('initialised') and not value for name, value in before.items())


def test_a_model_that_needs_large_images_is_tried_on_those_of_training():
    model = build_segmentor()
    pool = torch.nn.AvgPool2d(20)  # 64x64 images leave 32x32 features: 1x1 here, and nothing behind a second one
    model.backbone.layers.append(torch.nn.Sequential(pool, torch.nn.AvgPool2d(2)))
    with pytest.raises(ConfigError, match='model.backbone: its forward pass fails'):
        check_model(model)
    check_model(model, (96, 96))


@pytest.mark.parametrize(
    'schedulers, words',
    [
        ([dict(POLY, end=200)], ['ends at 200 but train_cfg.max_iters is 100']),
        ([dict(POLY, end=50)], ['ends at 50 but train_cfg.max_iters is 100: the learning rate stays at its end value']),
        ([dict(POLY, begin=100, end=200)], ['begins at 100']),
        ([dict(type='LinearLR', start_factor=0.1, end=10, by_epoch=False)], []),
        ([dict(type='LinearLR', start_factor=0.1, end=10, by_epoch=False), dict(POLY, begin=10, end=100)], []),
        ([dict(type='MultiStepLR', milestones=[50], by_epoch=False)], []),
        (dict(POLY, end=95), []),
        ([], []),
    ],
)
def test_remarks_on_schedules(schedulers, words):
    found = remarks(dict(param_scheduler=schedulers, train_cfg=dict(type='IterBasedTrainLoop', max_iters=100)))
    assert len(found) == len(words) and all(word in said for word, said in zip(words, found, strict=True))


def test_errors_of_something_else_pass_as_they_are():
    with pytest.raises(ValueError, match='^something else$') as caught, explained(dict(model=dict(type='X'))):
        raise ValueError('something else')
    assert not isinstance(caught.value, ConfigError)
    init_default_scope('mmseg')
    with pytest.raises(KeyError), explained(dict(model=dict(type='FCNHead'))):
        MODELS.build(dict(type='NotInThisConfig'))


def test_inference_names_what_does_not_fit(tmp_path):
    model = dict(
        type='EncoderDecoder',
        backbone=dict(type='PlainConvNet', channels=8),
        decode_head=dict(type='FCNHead', in_channels=16, channels=8, in_index=0, num_classes=3),
        test_cfg=dict(mode='whole'),
    )
    with pytest.raises(ConfigError, match='model.decode_head.in_channels is 16.*0: 8 channels'):
        init_model(Config(dict(model=model)), device='cpu')
    model['decode_head'].update(in_channels=8)
    data = dict(dataset=dict(type='CamVidDataset'))
    with pytest.raises(ConfigError, match='num_classes is 3, but the data set has 11 classes'):
        init_model(Config(dict(model=model, test_dataloader=data)), device='cpu')


@pytest.mark.parametrize('name', ['conv_cfg', 'norm_cfg', 'tta_cfg', 'act_cfg', 'train_pipeline', 'optimizer', 'data'])
def test_variables_of_a_config_are_no_misspelt_parts(name):
    check_config({name: dict(type='X'), 'model': dict(type='EncoderDecoder')})


def test_a_class_that_takes_any_argument_refuses_a_slip_alone():
    model, hooks = dict(type='EncoderDecoder'), dict(checkpoint=dict(type='CheckpointHook', safe_serialization=True))
    check_config(dict(model=model, default_hooks=hooks))
    hooks['checkpoint'].update(max_keep_ckpt=3)
    with pytest.raises(ConfigError, match="default_hooks.checkpoint.max_keep_ckpt is 3.*did you mean 'max_keep_ckpts'"):
        check_config(dict(model=model, default_hooks=hooks))
