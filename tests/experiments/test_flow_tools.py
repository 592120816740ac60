"""The flow's configs and tools: training, bits per dimension, samples, walks in latent space."""

import copy
import json
import math
from argparse import Namespace
from pathlib import Path

import cv2
import pytest
import torch
from helpers.checkout import ROOT
from helpers.config_cases import load
from helpers.generative_data import write_cifar10
from helpers.runtime_case import load_tool, run_tool
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, METRICS, MODELS

from mmseg_invattn.cli.flow_arguments import load_flow
from mmseg_invattn.datasets import Cifar10Dataset
from mmseg_invattn.datasets.generative import read_images
from mmseg_invattn.engine.matching import CheckpointMismatchError
from mmseg_invattn.experiments.attention_choice import INVERTIBLE_FORMS, choose_attention
from mmseg_invattn.experiments.flow.latent_walk import interpolate
from mmseg_invattn.experiments.flow.training_memory import extrapolate
from mmseg_invattn.layers.attention.modes import MODES

CONFIGS = ROOT / 'configs' / 'flow'
NAMES = ('cifar10', 'cifar10_8x8', 'cifar10_small')
SMALL = """
_base_ = '{config}'
model = dict(backbone=dict(stage_blocks=(1, 1), hidden_channels=(16, 16)), num_classes=10)
data = dict(data_root='{data}', verify=False, num_images=8)
train_dataloader = dict(batch_size=8, dataset=dict(data_root='{data}', verify=False))
val_dataloader = dict(batch_size=4, dataset=data)
test_dataloader = dict(batch_size=4, dataset=data)
train_cfg = dict(max_iters=40, val_interval=20)
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, by_epoch=False)]
optim_wrapper = dict(optimizer=dict(lr=1e-2))
default_hooks = dict(checkpoint=dict(interval=40), logger=dict(interval=1))
env_cfg = dict(cudnn_benchmark=False)
"""


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def flow_config(name: str, form: str | None = None, mode: str | None = None) -> Config:
    cfg = copy.deepcopy(load(CONFIGS / f'{name}.py'))
    choose_attention(cfg, form, mode)
    return cfg


def test_configs_have_no_attention_until_a_form_is_chosen():
    assert sorted(path.name for path in CONFIGS.iterdir()) == [f'{name}.py' for name in NAMES]
    for name in NAMES:
        cfg = flow_config(name)
        assert 'attention' not in cfg.model.backbone
        assert cfg.to_dict() == flow_config(name, 'none').to_dict()
        assert all(HOOKS.get(hook.type) for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks])
        assert DATASETS.get(cfg.train_dataloader.dataset.type) and METRICS.get('BitsPerDimMetric')
    cfg = flow_config('cifar10')
    backbone = cfg.model.backbone
    assert (backbone.stage_blocks, backbone.hidden_channels) == ((16,) * 3, (512,) * 3)
    assert (backbone.contraction, cfg.model.n_terms) == (0.98, 5)
    assert cfg.train_cfg.max_iters == 200 * (50000 // 64) and cfg.optim_wrapper.optimizer.type == 'Adamax'


@pytest.mark.parametrize('form', INVERTIBLE_FORMS)
@pytest.mark.parametrize('mode', MODES)
def test_the_attention_stands_where_the_paper_places_it(form, mode):
    plain, cfg = flow_config('cifar10'), flow_config('cifar10', form, mode)
    backbone = cfg.model.backbone
    assert backbone.pop('attention') == dict(form=form, mode=mode, **(dict(reduction=4) if form == 'paper' else {}))
    assert backbone.pop('attention_stages') == (0,)
    # without a certificate activations cannot be recovered for certain
    assert backbone.memory_free == (form != 'paper')
    backbone.memory_free = True
    assert cfg.to_dict() == plain.to_dict()
    again = flow_config('cifar10', form, mode)
    choose_attention(again, 'none')
    assert 'attention' not in again.model.backbone and 'attention_stages' not in again.model.backbone


def test_choices_that_do_not_exist():
    with pytest.raises(ValueError, match='--mode l2 .* this flow has none: add --form FORM, one of certified, '):
        flow_config('cifar10', mode='l2')
    with pytest.raises(ValueError, match='--mode l2 .* this flow has none: add --form FORM, one of certified, '):
        flow_config('cifar10', 'none', 'l2')
    with pytest.raises(ValueError, match='has the model EncoderDecoder: .*model.decode_head.attention.form'):
        choose_attention(Config(dict(model=dict(type='EncoderDecoder'))), 'certified')
    assert flow_config('cifar10', 'coupling').model.backbone.attention.mode == 'embedded_gaussian'
    sharper = flow_config('cifar10', 'certified')
    sharper.model.backbone.attention.sharpness = 3.0
    choose_attention(sharper, mode='l2')
    assert sharper.model.backbone.attention == dict(form='certified', mode='l2', sharpness=3.0)


@pytest.mark.parametrize(
    'name, form, mode',
    [
        *((name, 'none', None) for name in NAMES),
        *((name, 'certified', 'embedded_gaussian') for name in NAMES[1:]),
        *(('cifar10', form, mode) for form in INVERTIBLE_FORMS for mode in MODES if mode != 'gaussian'),
    ],
)
def test_every_kind_of_config_trains(name, form, mode):
    """A step with fewer and narrower blocks; the twins that differ in the mode gaussian alone are left out."""
    cfg = flow_config(name, form, mode)
    scales = len(cfg.model.backbone.strides)
    cfg.model.backbone.update(stage_blocks=(1,) * scales, hidden_channels=(8,) * scales)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    x = torch.rand(2, 3, 8, 8) - 0.5
    loss = model(x, mode='loss')['loss']
    # the paper's form may start anywhere: its series may diverge
    assert (form == 'paper' and loss.isfinite()) or 6 < float(loss.detach()) < 12
    optim_wrapper.backward(loss)
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, f'no finite gradient reaches {missing}'
    optim_wrapper.step()


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a short run with attention and a prior with classes."""
    folder = tmp_path_factory.mktemp('flow')
    write_cifar10(folder / 'data')
    config = folder / 'small.py'
    config.write_text(SMALL.format(config=CONFIGS / 'cifar10_8x8.py', data=folder / 'data'))
    run_tool('train', config, '--form', 'certified', '--work-dir', folder / 'work')
    written = folder / 'work' / 'small.py'  # has the choice in it
    assert Config.fromfile(written).model.backbone.attention == dict(form='certified', mode='embedded_gaussian')
    return written, folder / 'work' / 'iter_40.pth'


def scalars(folder: Path) -> list[dict]:
    return [json.loads(line) for path in folder.rglob('scalars.json') for line in path.read_text().splitlines()]


def test_bits_per_dim_fall(trained):
    """Of the training batches, and of the averaged weights on test images."""
    rows = scalars(trained[1].parent)
    losses = [row['loss'] for row in rows if 'loss' in row]
    assert len(losses) == 40 and sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5
    bits = [row['flow/bits_per_dim'] for row in rows if 'flow/bits_per_dim' in row]
    assert len(bits) == 2 and bits[1] < bits[0] < losses[0]


def test_curves_and_memory_tools(trained, capsys):
    out = trained[1].parent / 'curves.png'
    run_analysis('flow_curves', trained[1].parent, '--out', out)
    assert cv2.imread(str(out)) is not None and '| work | ' in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match='there is no vis_data/scalars.json'):
        run_analysis('flow_curves', trained[1].parent.parent / 'data')
    run_analysis('flow_memory', trained[0], '--form', 'coupling', '--batches', 16, 64, '--target', 128)
    rows = [line for line in capsys.readouterr().out.splitlines() if 'GiB' in line]
    assert [row.split()[1] for row in rows] == ['recovered', 'stored']
    assert extrapolate((2, 4), (10, 14), 8) == (6, 2)
    with pytest.raises(ValueError, match='two different batch sizes'):
        extrapolate((2, 2), (10, 14), 8)


def test_curves_of_what_is_kept_of_runs(tmp_path, capsys):
    """Files of validations alone, as in docs/results: the runs themselves, with their losses, are gone."""
    for name, last in (('without_attention', 3.94), ('with_attention', 3.892)):
        rows = [{'flow/bits_per_dim': 4.1, 'step': 750}, {'flow/bits_per_dim': last, 'step': 1500}]
        (tmp_path / f'{name}.json').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    files = [tmp_path / f'{name}.json' for name in ('without_attention', 'with_attention')]
    run_analysis('flow_curves', *files, '--out', tmp_path / 'bits.png')
    assert '| with_attention | 4.100 | 3.892 |' in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / 'bits.png')).shape[1] >= 800
    files[0].write_text('{"loss": 4.0, "step": 1}\n')
    with pytest.raises(ValueError, match='without_attention.json: the log has no flow/bits_per_dim'):
        run_analysis('flow_curves', *files, '--out', tmp_path / 'other.png')


def run_analysis(name: str, *arguments: object) -> None:
    load_tool(f'analysis/{name}').main([str(argument) for argument in arguments])


def test_test_tool_reports_bits_and_reconstruction(trained):
    config, checkpoint = trained
    run_tool('test', config, checkpoint, '--work-dir', checkpoint.parent / 'test', '--out', checkpoint.parent / 'out')
    (result,) = (
        json.loads(path.read_text())
        for path in (checkpoint.parent / 'test').rglob('*.json')
        if path.name != 'scalars.json'
    )
    assert result['flow/images'] == result['reconstruction/images'] == 8
    assert math.isfinite(result['flow/bits_per_dim']) and result['flow/bias_bound'] == 0  # roulette
    assert result['reconstruction/worst_max_error'] < 1e-4 and result['reconstruction/bound_broken'] == 0
    grid = cv2.imread(str(checkpoint.parent / 'out' / 'grid.png'))  # enlarged, with labels at its left
    assert grid.shape[0] == (3 * 10 - 2) * 11 and grid.shape[1] > (8 * 10 - 2) * 11 >= 800
    last = [row['flow/bits_per_dim'] for row in scalars(checkpoint.parent) if 'flow/bits_per_dim' in row][-1]
    assert result['flow/bits_per_dim'] == pytest.approx(last, abs=0.2)  # the checkpoint has the averaged weights


def test_sample_tool(trained, capsys):
    config, checkpoint = trained
    pictures = []
    for name, arguments in (('a', ()), ('b', ()), ('c', ('--seed', 1)), ('d', ('--temperature', 0.5))):
        out = checkpoint.parent / f'{name}.png'
        run_sample = ('--num', 6, '--columns', 3, '--device', 'cpu', '--out', out, *arguments)
        run_tool('sample', config, checkpoint, *run_sample)
        pictures.append(cv2.imread(str(out)))
    a, b, c, d = pictures
    assert a.shape == (18 * 29, 28 * 29, 3) and (a == b).all() and (a != c).any() and (a != d).any()
    assert '6 images at temperature 0.5; the inverse did not converge for 0 of them' in capsys.readouterr().out


def test_interpolate_tool(trained, capsys):
    config, checkpoint = trained
    out = checkpoint.parent / 'walk.png'
    run_tool('interpolate', config, checkpoint, '--pairs', 0, 1, 2, 3, '--steps', 5, '--device', 'cpu', '--out', out)
    walk = cv2.imread(str(out))
    assert walk.shape[0] == 18 * 17 and walk.shape[1] > 48 * 17 >= 800
    assert '2 interpolations of 5 images' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_tool('interpolate', config, checkpoint, '--pairs', 0, 1, 2)
    with pytest.raises(FileNotFoundError, match='missing.pth: there is no such checkpoint file'):
        run_tool('interpolate', config, 'missing.pth')
    with pytest.raises(ValueError, match='no image 8 in the data set'):
        run_tool('interpolate', config, checkpoint, '--pairs', 0, 8, '--device', 'cpu')


def test_walk_is_straight_between_the_images(trained):
    config, checkpoint = trained
    arguments = dict(config=str(config), checkpoint=str(checkpoint), cfg_options=None, trust_checkpoint=False)
    model = load_flow(Namespace(device='cpu', **arguments))
    assert not model.training
    other = CONFIGS.parent / 'reconstruction' / 'cifar10.py'
    with pytest.raises(ValueError, match='has a InvReconstruction, but this tool needs'):
        load_flow(Namespace(device=None, **arguments | dict(config=str(other))))
    narrow = dict(cfg_options={'model.backbone.hidden_channels': (8, 8)})
    with pytest.raises(CheckpointMismatchError, match='does not belong to the config'):
        load_flow(Namespace(device=None, **arguments | narrow))
    data = Cifar10Dataset(model.cfg.test_dataloader.dataset.data_root, 'test', verify=False, crop=8)
    images = read_images(data, (0, 1, 2, 3))
    walk, errors = interpolate(model, images[:2], images[2:], steps=3)
    assert walk.shape == (2, 3, 3, 8, 8) and errors.max() < 1e-4
    middle = [(a + b) / 2 for a, b in zip(model(images[:2]), model(images[2:]), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(model(walk[:, 1]), middle, strict=True))
    with pytest.raises(ValueError, match='steps=1'):
        interpolate(model, images[:2], images[2:], steps=1)
