"""Options given with --resume: applied where the restored state would override them, or refused, both values named."""

import re
import shutil

import pytest
import torch
from helpers.commands import run_command
from helpers.runtime_case import run_tool, write_case

LR = 'optim_wrapper.optimizer.lr'


@pytest.fixture(scope='module')
def stopped_run(tmp_path_factory):
    """Config and a checkpoint of iteration 2 of 6."""
    folder = tmp_path_factory.mktemp('stopped')
    config = write_case(folder)
    run_tool('train', config, '--work-dir', folder / 'work')
    return config, folder / 'work'


def resume(stopped_run, work, *options):
    """The exit status of going on at iteration 2, and the rates of the iterations from there on."""
    work.mkdir(exist_ok=True)
    shutil.copy(stopped_run[1] / 'iter_2.pth', work)
    status = run_command('train', stopped_run[0], '--work-dir', work, '--resume', options=options or ('',))
    if status:
        return status, []
    hub = torch.load(work / 'iter_6.pth', weights_only=True)['message_hub']['log_scalars']
    return status, hub['train/lr']['log'].tolist()


def rates(base, power=0.9, end=6):
    return [(base - 1e-4) * (1 - i / (end - 1)) ** power + 1e-4 for i in range(6)]


def log_of(work):
    return ' '.join(' '.join(path.read_text() for path in work.glob('*/*.log')).split())


def test_the_same_settings_change_nothing(stopped_run, tmp_path):
    status, found = resume(stopped_run, tmp_path)
    assert status == 0 and found == pytest.approx(rates(1e-2)) and 'settings were changed' not in log_of(tmp_path)
    one, other = (torch.load(folder / 'iter_6.pth', weights_only=True) for folder in (tmp_path, stopped_run[1]))
    assert all(torch.equal(tensor, other['state_dict'][name]) for name, tensor in one['state_dict'].items())


@pytest.mark.parametrize(
    ('options', 'expected', 'said'),
    [
        ((f'{LR}=1e-3',), rates(1e-3), 'optimizer.lr is 0.001 now and was 0.01'),
        (('param_scheduler.0.power=2',), rates(1e-2, 2), 'scheduler PolyLR.power is 2 now and was 0.9'),
        (('param_scheduler.0.end=12',), rates(1e-2, end=12), 'scheduler PolyLR.end is 12 now and was 6'),
        (('+optim_wrapper.optimizer.weight_decay=.5',), rates(1e-2), 'optimizer.weight_decay is 0.5 now and was 0.01'),
        (('+optim_wrapper.optimizer.betas=(.5,.9)',), rates(1e-2), 'optimizer.betas is (0.5, 0.9) now and was'),
        (
            ('model.decode_head.dropout_ratio=.1',),
            rates(1e-2),
            'model.decode_head.dropout_ratio is 0.1 now and was 0.5',
        ),
    ],
)
def test_changed_settings_hold(stopped_run, tmp_path, options, expected, said):
    status, found = resume(stopped_run, tmp_path, *options)
    assert status == 0 and said in log_of(tmp_path)
    assert found == pytest.approx(rates(1e-2)[:2] + expected[2:])
    group = torch.load(tmp_path / 'iter_6.pth', weights_only=True)['optimizer']['param_groups'][0]
    if 'weight_decay' in said:
        assert group['weight_decay'] == 0.5
    if 'betas' in said:
        assert tuple(group['betas']) == (0.5, 0.9)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (('optim_wrapper.optimizer.type=SGD',), r'optim_wrapper.optimizer.type is \S*SGD\S* now and was \S*AdamW'),
        (('randomness.seed=5',), 'randomness.seed=5: the run of .*iter_2.pth has the seed 0 and keeps it'),
        (
            ('+model.backbone.init_cfg.type=Normal', '+model.backbone.init_cfg.layer=Conv2d'),
            'model.backbone.init_cfg is .*Normal.* now and was .* before, but it has no effect any more',
        ),
    ],
)
def test_what_cannot_hold_is_refused(stopped_run, tmp_path, capsys, options, said):
    status, _ = resume(stopped_run, tmp_path, *options)
    error = capsys.readouterr().err
    assert status == 2 and re.search(said, ' '.join(error.split())) and 'Traceback' not in error
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_2.pth']


def test_groups_with_rates_of_their_own(tmp_path):
    """Each group keeps its share of the new rate, that of MMEngine's base settings included."""
    config = tmp_path / 'groups.py'
    config.write_text(
        f"_base_ = '{write_case(tmp_path)}'\n"
        "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=.1)}))\n"
    )
    run_tool('train', config, '--work-dir', tmp_path / 'work', options=('train_cfg.max_iters=2',))
    run_tool('train', config, '--work-dir', tmp_path / 'work', '--resume', options=(f'{LR}=1e-3',))
    state = torch.load(tmp_path / 'work' / 'iter_6.pth', weights_only=True)['optimizer']
    first = {round(group['initial_lr'], 9) for group in state['param_groups']}
    assert first == {1e-3, 1e-4} and state['base_param_settings']['initial_lr'] == 1e-3


def test_contraction_is_named(tmp_path, capsys):
    config = write_case(tmp_path)
    (tmp_path / 'attention.py').write_text(
        f"_base_ = '{config}'\n"
        "model = dict(decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, channels=8, num_classes=3,\n"
        '    dropout_ratio=0, norm_cfg=None, concat_input=False, align_corners=False,\n'
        "    loss_decode=dict(type='CrossEntropyLoss'), attention=dict(form='certified', contraction=0.9)))\n"
    )
    command = ('train', tmp_path / 'attention.py', '--work-dir', tmp_path / 'work')
    assert run_command(*command, options=('train_cfg.max_iters=2',)) == 0
    contraction = 'model.decode_head.attention.contraction=0.5'
    assert run_command(*command, '--resume', options=('train_cfg.max_iters=3', contraction)) == 0
    assert 'model.decode_head.attention.contraction is 0.5 now and was 0.9' in log_of(tmp_path / 'work')
