"""The full-attention network: its size as published, its outputs, its configs for classification."""

from pathlib import Path

import pytest
import torch
from helpers.checkout import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_invattn.models import SelfAttentionNet

# Configs of classification lie one folder deeper than those of segmentation: what tests/configs/test_configs.py asks of
# every config (a decode head, crops, the name of a GPU count) they do not have.
CONFIGS = sorted((ROOT / 'configs' / 'self_attention' / 'cifar10').glob('*.py'))
# millions of parameters in table 1 of https://arxiv.org/abs/1911.03584, from its code
PUBLISHED = {'resnet18': 11.17, 'quadratic': 12.09, 'learned': 12.28, 'learned-content': 29.60}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def load(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / 'self_attention' / 'cifar10' / f'{name}.py')


def test_every_variant_has_a_config():
    assert {path.stem for path in CONFIGS} == {
        'quadratic',
        'quadratic-full',
        'quadratic-full-pruned',
        'quadratic-16heads',
        'quadratic-pooled',
        'learned',
        'learned-content',
        'resnet18',
    }


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    with torch.device('meta'):
        model = MODELS.build(load(name).model)
    count = sum(p.numel() for p in model.parameters())
    if name == 'learned-content':
        count += 6 * 9 * 400  # the bias of the keys, which the softmax does not see
    assert abs(count / 1e6 - PUBLISHED[name]) < 0.006


def test_recipe_that_lets_heads_move():
    """Centres and widths have ten times the rate of the rest, and the ResNet beside it about as many parameters."""
    cfgs = [
        Config.fromfile(ROOT / f'configs/self_attention/cifar10_local/{name}.py') for name in ('quadratic', 'resnet18')
    ]
    models = [MODELS.build(cfg.model) for cfg in cfgs]
    count, baseline = (sum(p.numel() for p in model.parameters()) for model in models)
    assert abs(count / baseline - 1) < 0.05
    for model, cfg in zip(models, cfgs, strict=True):
        groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
        rate = {id(p): group['lr'] for group in groups for p in group['params']}
        for name, p in model.named_parameters():
            assert rate[id(p)] == pytest.approx(0.02 if name.endswith(('encoding.centre', 'encoding.root')) else 0.002)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_trains_and_predicts(path: Path):
    """One step reaches every parameter, in the model of the config but for its width."""
    cfg = Config.fromfile(path)
    assert cfg.custom_imports == dict(imports=['mmseg_invattn'], allow_failed_imports=False)
    torch.manual_seed(0)
    small = dict(base_channels=8) if path.stem == 'resnet18' else dict(channels=24, feedforward_channels=16)
    model = MODELS.build(
        dict(cfg.model, backbone=dict(cfg.model.backbone, **small), in_channels=64 if path.stem == 'resnet18' else 24)
    )
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    free = {id(p) for group in optim_wrapper.param_groups if group['weight_decay'] == 0 for p in group['params']}
    positions = ('encoding.centre', 'encoding.root')
    assert free == {id(p) for name, p in model.named_parameters() if name.endswith(positions)}
    batch = dict(inputs=torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), data_samples=torch.arange(4))
    for _ in range(2):
        losses = model.train_step(batch, optim_wrapper)
    assert losses['loss'].isfinite()
    model(**model.data_preprocessor(batch, True), mode='loss')['loss'].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    predictions = model.eval().test_step(batch)
    assert [p['gt_label'] for p in predictions] == [0, 1, 2, 3] and predictions[0]['scores'].shape == (10,)


def test_features_of_several_stages():
    net = SelfAttentionNet(
        patch_size=4,
        channels=12,
        num_layers=4,
        num_heads=2,
        feedforward_channels=8,
        pool_after=(0, 2),
        out_indices=(0, 1, 3),
    )
    outputs = net(torch.randn(2, 3, 40, 24))
    assert net.out_strides == (4, 8, 16)
    assert [tuple(y.shape) for y in outputs] == [(2, 12, 10, 6), (2, 12, 5, 3), (2, 12, 2, 1)]


def test_a_number_of_heads_for_each_layer():
    net = SelfAttentionNet(channels=8, num_layers=3, num_heads=[4, 2, 1], out_indices=(2,))
    assert [layer.attention.num_heads for layer in net.layers] == [4, 2, 1]


def test_windows_are_shifted_in_every_second_layer():
    net = SelfAttentionNet(channels=8, num_layers=3, num_heads=1, attention=dict(window=4), out_indices=(2,))
    assert [layer.attention.window_shift for layer in net.layers] == [0, 2, 0]
    net = SelfAttentionNet(channels=8, num_layers=2, num_heads=1, out_indices=(1,))
    assert [layer.attention.window_shift for layer in net.layers] == [0, 0]


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(out_indices=(0, 1)), r'out_indices=\(0, 1\) .* end with 5'),
        (dict(out_indices=()), 'out_indices'),
        (dict(pool_after=(5,)), r'pool_after=\(5,\)'),
        (dict(channels=0), 'channels=0'),
        (dict(num_heads=[9, 9]), r'num_heads=\(9, 9\) has 2 numbers for num_layers=6'),
        (dict(num_heads=0), 'num_heads=0'),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        SelfAttentionNet(**arguments)


def test_image_that_is_no_multiple_of_the_patch():
    net = SelfAttentionNet(channels=4, num_layers=1, num_heads=1, out_indices=(0,))
    with pytest.raises(ValueError, match='pad your images'):
        net(torch.randn(1, 3, 5, 4))
