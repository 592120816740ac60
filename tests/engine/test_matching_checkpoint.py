"""Which checkpoint a Runner may load: to go on from it exactly, to start from its weights, to evaluate it."""

from collections import OrderedDict
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from mmengine.hooks import EMAHook

from mmseg_invattn.engine.hooks import MatchingCheckpointHook
from mmseg_invattn.engine.integrity import NonFiniteWeightsError
from mmseg_invattn.engine.matching import CheckpointMismatchError


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))


def runner(resume: bool, groups: int = 1, schedulers: int = 1, hooks: tuple = ()) -> SimpleNamespace:
    """A stand-in for a Runner that is about to load."""
    model = net()
    parameters = list(model.parameters())
    parts = [dict(params=parameters[place::groups]) for place in range(groups)]
    return SimpleNamespace(
        model=model,
        _resume=resume,
        _load_from='run.pth',
        hooks=hooks,
        optim_wrapper=SimpleNamespace(optimizer=torch.optim.SGD(parts, lr=0.1)),
        param_schedulers=[object()] * schedulers,
        cfg={},
        logger=mock.Mock(),
    )


def checkpoint(**changes: object) -> dict:
    """Of such a run, with changes; None takes a part away."""
    model = net()
    whole = dict(
        meta=dict(iter=1, epoch=0),
        state_dict=model.state_dict(),
        message_hub={},
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        param_schedulers=[{}],
    )
    return {key: value for key, value in (whole | changes).items() if value is not None}


def weights(**changes: object) -> OrderedDict:
    return OrderedDict((key, value) for key, value in (net().state_dict() | changes).items() if value is not None)


def test_a_resume_takes_the_checkpoint_of_its_run():
    one, content = runner(True), checkpoint()
    MatchingCheckpointHook().after_load_checkpoint(one, content)
    assert all(torch.equal(value, content['state_dict'][key]) for key, value in one.model.state_dict().items())
    averaged = runner(True, hooks=(EMAHook(),))
    MatchingCheckpointHook().after_load_checkpoint(averaged, checkpoint(ema_state_dict={}))


@pytest.mark.parametrize(
    'changes, arguments, words',
    [
        (dict(state_dict=weights(**{'0.weight': None, '0.weigth': torch.ones(2, 2)})), {}, r'0\.weight; .*0\.weigth'),
        (dict(state_dict=weights(**{'2.bias': None})), {}, r'only in the model: 2\.bias'),
        (dict(state_dict=weights(**{'1.running_var': None})), {}, r'only in the model: 1\.running_var'),
        (dict(state_dict=weights(more=torch.ones(1))), {}, 'only in the checkpoint: more'),
        (dict(state_dict=weights(**{'0.bias': torch.ones(3)})), {}, r'another shape: 0\.bias \(3,\) for \(2,\)'),
        (dict(state_dict=OrderedDict(reversed(weights().items()))), {}, r'another order, 2\.bias where .* 0\.weight'),
        (dict(optimizer=None), {}, r'it has no optimizer \(it was written with save_optimizer=False\)'),
        (dict(message_hub=None), {}, 'it has no message_hub'),
        (dict(meta=dict(epoch=0)), {}, r'it has no meta\.iter'),
        ({}, dict(groups=2), '6 parameters in 1 group, but that of the config has 6 in 2'),
        ({}, dict(schedulers=2), 'it has 1 scheduler, but the config has 2'),
        (dict(param_schedulers=None), {}, 'it has 0 schedulers, but the config has 1'),
        ({}, dict(hooks=(EMAHook(),)), 'the config has an EMAHook, but the checkpoint has no averaged weights'),
        (dict(ema_state_dict={}), {}, 'its weights are averages .* the config has no EMAHook'),
    ],
)
def test_a_resume_is_exact_or_an_error(changes, arguments, words):
    with pytest.raises(CheckpointMismatchError, match=rf'--resume from run\.pth: the run cannot continue .*{words}'):
        MatchingCheckpointHook().after_load_checkpoint(runner(True, **arguments), checkpoint(**changes))


def test_a_training_may_start_from_weights_of_which_some_fit():
    one = runner(False)
    alone = dict(weights(**{'2.weight': torch.ones(5, 2), 'x': torch.ones(1)}))
    MatchingCheckpointHook().after_load_checkpoint(one, alone)
    assert set(alone) == {'state_dict'} and alone['state_dict']['2.weight'].shape == (5, 2)
    for strange in (dict(x=torch.ones(1)), {'0.weight': torch.ones(3, 3)}):
        with pytest.raises(CheckpointMismatchError, match=r'load_from=run\.pth: none of its weights fits'):
            MatchingCheckpointHook().after_load_checkpoint(one, strange)
    with pytest.raises(NonFiniteWeightsError, match=r'run\.pth: 0\.bias has 2 values'):
        MatchingCheckpointHook().after_load_checkpoint(one, weights(**{'0.bias': torch.full((2,), float('inf'))}))


def test_an_evaluation_takes_all_of_them():
    with pytest.raises(CheckpointMismatchError, match='does not belong to the config'):
        MatchingCheckpointHook(evaluation=True).after_load_checkpoint(
            runner(False), checkpoint(state_dict=weights(**{'2.bias': None}))
        )


def test_on_the_command_line(tmp_path):
    """A run, one weight renamed, and --resume."""
    config = write_case(tmp_path)
    short = ('train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=1', 'train_cfg.val_interval=100')
    run_tool('train', config, '--work-dir', tmp_path / 'work', options=('train_cfg.max_iters=1', *short[1:]))
    path = tmp_path / 'work' / 'iter_1.pth'
    content = torch.load(path, weights_only=True)
    content['state_dict']['decode_head.conv_seg.weigth'] = content['state_dict'].pop('decode_head.conv_seg.weight')
    torch.save(content, path)
    with pytest.raises(CheckpointMismatchError, match=r'only in the model: decode_head\.conv_seg\.weight;'):
        run_tool('train', config, '--work-dir', tmp_path / 'work', '--resume', options=short)
