"""Outputs and losses that are not finite, and losses that diverge."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.runtime_case import run_tool
from helpers.tool_case import call_tool, write_tool_case
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_invattn.engine.finite_outputs import NonFiniteOutputError, check_outputs, outputs_of, watch_outputs
from mmseg_invattn.engine.hooks import NonFiniteLossHook

SLIDE = ('model.test_cfg.mode=slide', '+model.test_cfg.crop_size=(24,24)', '+model.test_cfg.stride=(12,12)')


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Config, finite weights whose logits overflow, and an image."""
    folder = tmp_path_factory.mktemp('overflow')
    config, path = write_tool_case(folder)
    content = torch.load(path, weights_only=True)
    content['state_dict']['decode_head.conv_seg.weight'].fill_(3e38)
    torch.save(content, path)
    return config, path, folder / 'data' / 'images' / '0.png'


@pytest.mark.parametrize(
    'arguments, options',
    [
        (['--tta'], ()),
        ([], SLIDE),
        pytest.param([], (), marks=pytest.mark.slow),
        pytest.param([], ('test_evaluator.type=SegMetric',), marks=pytest.mark.slow),
    ],
    ids=['augmented', 'windows', 'whole', 'our metric'],
)
def test_a_test_stops(case, tmp_path, arguments, options):
    with pytest.raises(NonFiniteOutputError, match=r'0\.png: seg_logits: \S+ of 2,352 values are not finite'):
        run_tool('test', case[0], case[1], '--work-dir', tmp_path, *arguments, options=options)


def test_a_validation_stops_while_training(case, tmp_path):
    """The loss is finite, the logits of the validation are not."""

    def spoilt(model, inputs, outputs):
        for sample in outputs if not model.training else ():
            sample.seg_logits.data[0, 3, 4] = float('nan')

    with mock.patch('mmseg_invattn.engine.finite_outputs._check', wraps_after(spoilt)):
        with pytest.raises(NonFiniteOutputError, match=r'0\.png: seg_logits: 1 of 2,352 values'):
            options = ('train_cfg.max_iters=1', 'train_cfg.val_interval=1')
            run_tool('train', case[0], '--work-dir', tmp_path, options=options)


def wraps_after(spoil):
    """Spoils the outputs before they are checked, except those of the blank image that a Runner tries first."""
    from mmseg_invattn.engine import finite_outputs

    check = finite_outputs._check

    def both(model, inputs, outputs):
        spoil(model, inputs, outputs)
        check(model, inputs, outputs)

    return both


def test_tools_stop(case, tmp_path):
    with pytest.raises(NonFiniteOutputError, match='seg_logits: '):
        call_tool('predict', case[0], case[1], case[2], '--out', tmp_path / 'out')
    assert not list((tmp_path / 'out').glob('*'))
    with pytest.raises(NonFiniteOutputError, match='a random image: logits: '):
        call_tool('export', case[0], case[1], '--format', 'torch_export', '--out', tmp_path / 'x.pt2')
    assert not (tmp_path / 'x.pt2').exists()


def test_any_tensor_of_any_output():
    nan = torch.tensor([1.0, float('nan')])
    sample = SegDataSample(seg_logits=PixelData(data=torch.ones(1, 2, 2)), metainfo=dict(img_path='a.png'))
    bad = copy.deepcopy(sample)
    bad.seg_logits.data[0, 0, 0] = float('-inf')
    for fine in (
        None,
        [],
        sample,
        [sample, 1, 'x'],
        dict(scores=torch.ones(2), error_bound=nan),
        torch.ones(2, dtype=torch.int64),
    ):
        check_outputs(fine)
    for outputs, words in (
        ([sample, bad], 'a.png: seg_logits: 1 of 4'),
        (dict(scores=nan), 'an image: scores: 1 of 2'),
        ((torch.ones(1), [nan]), 'an image: output: 1 of 2'),
        (nan.half(), 'output: 1 of 2'),
        (torch.complex(nan, nan), 'output: 1 of 2'),
    ):
        with pytest.raises(NonFiniteOutputError, match=words):
            check_outputs(outputs)
    with pytest.raises(NonFiniteOutputError, match='b.png: output: 1 of 2'), outputs_of('b.png'):
        check_outputs(nan)


def test_training_is_left_to_the_loss_and_a_watch_ends():
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, float('nan'))
    watch = watch_outputs(model)
    model.train()(torch.ones(1, 1))
    with pytest.raises(NonFiniteOutputError):
        model.eval()(torch.ones(1, 1))
    watch.remove()
    model(torch.ones(1, 1))


# ----------------------------------------------------------------------------------------------------- divergence


def warnings(losses, hook: NonFiniteLossHook | None = None, hub: MessageHub | None = None) -> list[tuple[int, str]]:
    """(iteration, text) of every warning in a run with these losses."""
    hub = hub or MessageHub(f'losses{id(losses)}')
    hook = hook or NonFiniteLossHook()
    runner = SimpleNamespace(message_hub=hub, logger=mock.Mock(), iter=0)
    found = []
    for runner.iter, loss in enumerate(losses):
        hub.update_scalar('train/loss', float(loss))
        hook.after_train_iter(runner, 0, None, dict(loss=torch.tensor(float(loss))))
        found += [(runner.iter, call.args[0]) for call in runner.logger.warning.call_args_list]
        runner.logger.warning.reset_mock()
    return found


def noisy(level: float, count: int) -> Iterator[float]:
    generator = torch.Generator().manual_seed(0)
    return (level * (0.5 + float(torch.rand(1, generator=generator))) for _ in range(count))


def test_a_loss_that_runs_away_is_said_once():
    (first, text), *more = warnings([*noisy(2, 20), *noisy(100, 50)])
    assert first == 24 and 'The training diverges' in text and 'at the start' in text and not more
    found = warnings([*noisy(2, 20), *(2 * 1.5**step for step in range(130))])
    assert 2 <= len(found) <= 9 and found[0][0] < 40  # once more at every thousandfold


def test_one_that_explodes_at_once_is_noticed():
    assert warnings([1.0, 1.2, 40, 1e4, 1e8, 1e12, 1e16, 1e20, 1e24])[0][0] == 6


@pytest.mark.parametrize(
    'losses',
    [
        list(noisy(1, 100)),
        [*noisy(1, 30), 500, 400, *noisy(1, 30)],  # two hard batches
        [0.0] * 12 + list(noisy(0.5, 40)),  # nothing but ignored pixels at first
        [-3 - step / 10 for step in range(100)],  # a likelihood
        [-1.0 + step / 100 for step in range(100)],
        [0.001] * 10 + list(noisy(0.1, 40)),
    ],
    ids=['steady', 'spikes', 'from nothing', 'falls below zero', 'rises from below', 'small'],
)
def test_others_are_not(losses):
    assert warnings(losses) == []


def test_the_start_outlives_a_resume():
    hub = MessageHub('resumed')
    assert warnings(list(noisy(1, 20)), hub=hub) == []
    assert warnings(list(noisy(300, 6)), hub=hub)
