"""The values that CertificateHook logs, and the faults for which it stops a run."""

import json
import math
import re
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.head_cases import build_head
from helpers.runtime_case import run_tool, write_case
from torch import nn

from mmseg_invattn.engine.hooks import CertificateHook
from mmseg_invattn.engine.hooks.certificate_hook import invertible_blocks
from mmseg_invattn.layers import (
    FORMS,
    CertifiedAttention2d,
    CouplingAttention2d,
    InvConvResidual,
    InvRelativeAttention2d,
    PaperAttention2d,
)
from mmseg_invattn.models import InvAttentionResNet, InvResNet, RevNet2d
from mmseg_invattn.models.attention import build_attention


class Log(dict):
    """Message hub, visualizer and logger in one."""

    def __init__(self):
        super().__init__()
        self.lines, self.drawn = [], {}

    def update_scalar(self, key, value):
        assert isinstance(value, int | float)
        self[key] = value

    def add_scalars(self, scalars, step):
        self.drawn.setdefault(step, {}).update(scalars)

    def info(self, line):
        self.lines.append(line)


def run(model, x, hook, iterations=1, validate=True, batch_size=1):
    """Train iterations, and a validation in batches, as the loops call the hook."""
    log = Log()
    runner = SimpleNamespace(model=model, iter=0, message_hub=log, visualizer=log, logger=log)
    hook.before_train(runner)
    model.train()
    for runner.iter in range(iterations):
        hook.before_train_iter(runner, runner.iter)
        model(x)
        hook.after_train_iter(runner, runner.iter)
    if validate:
        model.eval()
        hook.before_val_epoch(runner)
        with torch.no_grad():
            for sample in x.split(batch_size):
                model(sample)
        hook.after_val_epoch(runner)
    assert not any(module._forward_hooks for module in model.modules())
    return log


def test_every_block_is_found_by_name():
    net = InvAttentionResNet(
        depth=18,
        stem_channels=4,
        base_channels=4,
        attention=[dict(stage=1)],
        plugins=None,
        norm_cfg=dict(type='GN', num_groups=2),
    )
    assert list(invertible_blocks(net)) == ['layer2.attention0']
    assert list(invertible_blocks(build_head('da'))) == ['attention', 'channel_attention']
    assert list(invertible_blocks(build_head('fcn'))) == ['attention.layers.0', 'attention.layers.2']
    assert not invertible_blocks(build_head('da', form='none'))


@pytest.mark.parametrize(
    'backbone, attention, blocks',
    [
        (InvResNet, dict(form='certified'), ['InvConvResidual', 'InvConvResidual', 'CertifiedAttention2d']),
        (RevNet2d, dict(form='coupling'), ['GridCoupling'] * 6),
    ],
)
def test_blocks_of_invertible_backbones_are_watched(backbone, attention, blocks):
    """Residual convolutions and couplings are watched too; layers with an exact inverse, such as squeezes, are not."""
    torch.manual_seed(0)
    net = backbone(
        strides=(2, 2),
        out_indices=(0, 1),
        stage_blocks=(1, 1),
        hidden_channels=(8, 8),
        attention=attention,
        attention_stages=(1,),
        memory_free=False,
    )
    found = invertible_blocks(net)
    assert [type(block).__name__ for block in found.values()] == blocks
    log = run(net, torch.randn(2, 3, 8, 8), CertificateHook(interval=1))
    for name in found:
        assert (f'certificate/{name}/bound' in log) == (backbone is InvResNet)
    assert len(log.lines) == len(set(blocks)) and f'blocks, {next(iter(found))} to ' in log.lines[0]
    for name in found:
        assert log[f'certificate/{name}/inverse_error'] <= log[f'certificate/{name}/error_bound']


def test_couplings_are_inverted_in_the_batch_that_they_saw():
    """Whole batches are inverted, because sub-networks may round differently in a smaller batch."""
    torch.manual_seed(0)
    model, x = nn.Sequential(CouplingAttention2d(8)), torch.randn(5, 8, 4, 4)
    with mock.patch.object(
        CouplingAttention2d, 'inverse', autospec=True, side_effect=CouplingAttention2d.inverse
    ) as inverse:
        log = run(model, x, CertificateHook(max_val_images=3), batch_size=2)
    assert [len(call.args[1]) for call in inverse.call_args_list] == [2, 2]
    assert 0 < log['certificate/0/inverse_error'] <= log['certificate/0/error_bound']


@pytest.mark.parametrize('channels, hidden, kernel_sizes', [(384, 576, (3, 1, 3)), (384, 704, (1, 3, 1))])
def test_rounding_of_large_convolutions_is_no_broken_certificate(channels, hidden, kernel_sizes):
    """Those of InvResNet's last stage: the bound counts rounding, above the contraction."""
    torch.manual_seed(0)
    block = InvConvResidual(channels, hidden, kernel_sizes, contraction=0.5)
    log = run(nn.Sequential(block), torch.randn(1, channels, 2, 2), CertificateHook(interval=1), validate=False)
    assert 0.5 < log['certificate/0/bound'] < 0.5 * (1 + 1e-4)


@pytest.mark.parametrize('backbone', [InvResNet, RevNet2d])
def test_backbones_that_train_without_activations_are_watched(backbone):
    """The backward pass runs their layers again."""
    torch.manual_seed(0)
    net = backbone(strides=(2, 2), out_indices=(0, 1), stage_blocks=(1, 1), hidden_channels=(8, 8))
    hook, log = CertificateHook(interval=1), Log()
    runner = SimpleNamespace(model=net.train(), iter=0, message_hub=log, visualizer=log, logger=log)
    hook.before_train_iter(runner, 0)
    sum(feature.square().mean() for feature in net(torch.randn(2, 3, 8, 8))).backward()
    hook.after_train_iter(runner, 0)
    assert len(log) == (2 if backbone is InvResNet else 0) and all(0 < bound <= 0.5001 for bound in log.values())
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'paper'])
def test_scalars_of_every_form(form):
    torch.manual_seed(0)
    log = run(nn.Sequential(FORMS[form](8)), torch.randn(3, 8, 5, 6), CertificateHook(interval=2), 3)
    certified = form in ('certified', 'conditional')
    train = {'certificate/0/bound', 'certificate/0/sharpness', 'certificate/0/saturated'}
    val = {'inverse_error', 'relative_error', 'evaluations'}
    val |= {'error_bound', 'relative_bound'} if form != 'paper' else set()
    val |= {'residual'} if form != 'coupling' else set()
    val |= {'rounding', 'local_bound'} if certified else set()
    assert set(log.drawn[2]) == {f'certificate/0/{key}' for key in val} | (train if certified else set())
    assert {key: log[key] for key in log.drawn[2]} == log.drawn[2]
    assert {key: log[key] for key in log if key not in log.drawn[2]} == {
        f'val/certificate/{key}': log[f'certificate/0/{key}'] for key in val
    }
    (line,) = log.lines
    assert f'0, {FORMS[form].__name__}: ' in line and ('no certified Lipschitz bound' in line) == (not certified)
    if certified:
        assert log['certificate/0/bound'] == pytest.approx(0.9, rel=0.1) and log['certificate/0/sharpness'] == (
            1 if form == 'certified' else 2
        )
        assert 0 <= log['certificate/0/saturated'] <= 1
        assert 0 < log['certificate/0/inverse_error'] <= log['certificate/0/error_bound']
        assert log['certificate/0/evaluations'] > 1


@pytest.mark.parametrize(
    'config, num_blocks', [(dict(), 2), ([dict(type='InvChannelAttention'), dict()], 1)], ids=['stack', 'dual']
)
def test_compositions_block_by_block(config, num_blocks):
    torch.manual_seed(0)
    model = nn.Sequential(build_attention(8, config, num_blocks))
    log = run(model, torch.randn(2, 8, 5, 6), CertificateHook(interval=1))
    assert len(log.drawn[1]) == 6
    values = {
        measure: [value for key, value in log.items() if re.fullmatch(f'certificate/.+/{measure}', key)]
        for measure in ('inverse_error', 'error_bound', 'residual')
    }
    for measure, of_blocks in values.items():
        assert len(of_blocks) == 2 and log[f'val/certificate/{measure}'] == max(of_blocks)
    # unlike bounds, the errors of two blocks, a few roundings each, may be equal by chance
    assert max(values['error_bound']) > min(values['error_bound'])


def test_position_only_attention():
    torch.manual_seed(0)
    log = run(nn.Sequential(InvRelativeAttention2d(8)), torch.randn(2, 8, 5, 6), CertificateHook(interval=1))
    assert log['certificate/0/bound'] == pytest.approx(0.9, rel=1e-4)
    assert 0 < log['certificate/0/inverse_error'] <= log['certificate/0/error_bound']


def test_no_more_images_than_asked_for_and_nothing_between():
    torch.manual_seed(0)
    model, x = nn.Sequential(CertifiedAttention2d(8)), torch.randn(5, 8, 4, 4)
    with mock.patch.object(
        CertifiedAttention2d, 'inverse', autospec=True, side_effect=CertifiedAttention2d.inverse
    ) as inverse:
        run(model, x, CertificateHook(interval=10, max_val_images=3))
        assert sum(len(call.args[1]) for call in inverse.call_args_list) == 3
        inverse.reset_mock()
        with mock.patch.object(CertifiedAttention2d, 'lipschitz_bound', side_effect=AssertionError):
            log = run(model, x, CertificateHook(interval=10, max_val_images=0), 9)
    assert not log and not inverse.called


def test_models_without_blocks_are_left_alone():
    log = run(nn.Sequential(nn.Conv2d(8, 8, 1), FORMS['none'](8)), torch.randn(1, 8, 4, 4), CertificateHook(interval=1))
    assert not log and not log.drawn and not log.lines


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='interval=0'):
        CertificateHook(interval=0)
    with pytest.raises(ValueError, match='max_val_images=-1'):
        CertificateHook(max_val_images=-1)


@pytest.mark.parametrize('broken', [0.95, math.nan])
def test_a_bound_above_the_contraction_stops_the_run(broken):
    model = nn.Sequential(CertifiedAttention2d(8))
    with mock.patch.object(type(model[0]), 'lipschitz_bound', return_value=broken):
        with pytest.raises(RuntimeError, match=rf'0: the certified.*{broken} in iteration 2.*contraction=0.9'):
            run(model, torch.randn(2, 8, 4, 4), CertificateHook(interval=2), 2)


def test_weights_that_are_not_finite_stop_the_run():
    model = nn.Sequential(CertifiedAttention2d(8))
    with torch.no_grad():
        model[0].out.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"0, in iteration 1: the parameters \['out.weight'\] .* not finite"):
        run(model, torch.randn(2, 8, 4, 4), CertificateHook(interval=1), 1)


def test_an_inverse_off_by_more_than_its_bound_stops_the_run():
    class Off(CertifiedAttention2d):
        def inverse(self, *args, **kwargs):
            x, info = super().inverse(*args, **kwargs)
            return x + 0.1, info

    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match='0: the error of an inverse is 0.28.*iteration 0.*below the reported bound'):
        run(nn.Sequential(Off(8)), torch.randn(2, 8, 4, 4), CertificateHook(interval=5))


def test_a_certified_inverse_that_does_not_converge_stops_the_run_and_one_of_the_paper_does_not():
    torch.manual_seed(0)
    x, hook = 3 * torch.randn(1, 8, 4, 4), CertificateHook(interval=5, max_iter=1)
    with pytest.raises(RuntimeError, match='0: an inverse did not converge within 1 evaluation,'):
        run(nn.Sequential(CertifiedAttention2d(8)), x, hook)
    assert 'certificate/0/relative_error' in run(nn.Sequential(PaperAttention2d(8)), x, hook)


def test_a_start_that_sharding_would_lose_is_refused():
    model, x = nn.Sequential(CertifiedAttention2d(8)), torch.randn(2, 8, 4, 4)
    model[0]._is_fsdp_managed_module = True  # as FullyShardedDataParallel leaves its mark
    with pytest.raises(RuntimeError, match='0: its normalisation is initialised by the first training batch, but FSDP'):
        run(model, x, CertificateHook())
    model(x)
    assert run(model, x, CertificateHook()).lines


def test_blocks_whose_hooks_do_not_run_are_measured_too():
    model = nn.Sequential(CertifiedAttention2d(8))
    model.forward = lambda x: model[0].forward(x)  # as code compiled before there was a hook
    log = run(model, torch.randn(2, 8, 4, 4), CertificateHook(interval=1), validate=False)
    assert set(log) == {'certificate/0/bound', 'certificate/0/sharpness'}


def test_a_run_logs_them_to_its_backends(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{write_case(tmp_path)}'
model = dict(decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, channels=8, num_classes=3,
                              dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
                              loss_decode=dict(type='CrossEntropyLoss'), attention=dict(form='certified')))
default_hooks = dict(certificate=dict(interval=2, max_val_images=2))
train_cfg = dict(max_iters=4, val_interval=4)
""")
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    lines = [
        json.loads(line)
        for path in (tmp_path / 'work').glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    key = 'certificate/decode_head.attention/'
    assert [line['step'] for line in lines if f'{key}bound' in line] == [2, 4]
    (validation,) = (line for line in lines if 'mIoU' in line)
    (block,) = (line for line in lines if f'{key}inverse_error' in line)
    assert 0 < block[f'{key}inverse_error'] == validation['certificate/inverse_error']
    assert block['step'] == 4 and block[f'{key}inverse_error'] <= block[f'{key}error_bound']
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    printed = [line for line in log.splitlines() if 'certificate/' in line]
    assert len(printed) == 1 and 'Iter(val)' in printed[0] and key not in log
