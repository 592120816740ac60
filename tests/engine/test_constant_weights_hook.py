"""ConstantWeightsHook: weights are derived once for a validation or test, and are those of its parameters."""

import json
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from helpers.tiny_segmentor import build_segmentor
from helpers.tool_case import attention_config, write_weights
from torch import Tensor, nn

from mmseg_invattn.engine.hooks import ConstantWeightsHook
from mmseg_invattn.layers import CertifiedAttention2d

START = 1  # ConfigCheckHook runs the model when a Runner starts
OFF = 'default_hooks.constant_weights=None'


def counted():
    """Calls of ``weights`` of the attention, inside."""
    return mock.patch.object(CertifiedAttention2d, 'weights', autospec=True, side_effect=CertifiedAttention2d.weights)


def segmentor_and_runner(batches: int = 3) -> tuple[nn.Module, SimpleNamespace]:
    torch.manual_seed(0)
    model = build_segmentor().eval()
    return model, SimpleNamespace(model=model, val_dataloader=[None] * batches, test_dataloader=[None] * batches)


def change(model: nn.Module) -> None:
    """All parameters, as an optimiser does it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def derived(model: nn.Module, x: Tensor) -> int:
    """How often two forward passes derive the weights of the attention."""
    with counted() as weights, torch.no_grad():
        model(x), model(x)
    return weights.call_count


def test_a_training_derives_them_once_for_every_validation(tmp_path):
    """Of four images; without the hook at each of them."""
    config = attention_config(tmp_path, write_case(tmp_path), form='certified')
    scores = []
    for name, options, validations in (('on', (), 2), ('off', (OFF,), 8)):
        with counted() as weights:
            run_tool(
                'train',
                config,
                '--work-dir',
                tmp_path / name,
                options=(
                    'train_cfg.max_iters=4',
                    'train_cfg.val_interval=2',
                    'default_hooks.certificate=None',
                    *options,
                ),
            )
        assert weights.call_count == START + 4 + validations
        lines = next((tmp_path / name).glob('*/vis_data/scalars.json')).read_text().splitlines()
        scores.append([line['mIoU'] for line in map(json.loads, lines) if 'mIoU' in line])
    assert len(scores[0]) == 2 and scores[0] == scores[1]


def test_a_test_derives_them_once(tmp_path):
    config = attention_config(tmp_path, write_case(tmp_path), form='certified')
    checkpoint = write_weights(config, tmp_path / 'weights.pth')
    for name, arguments, options, times in (('on', (), (), 1), ('tta', ('--tta',), (), 1), ('off', (), (OFF,), 4)):
        with counted() as weights:
            run_tool('test', config, checkpoint, '--work-dir', tmp_path / name, *arguments, options=options)
        assert weights.call_count == START + times, name


def test_beside_averaged_weights(tmp_path):
    """EMAHook swaps all parameters before and after a validation, the hook is entered and left in between."""
    config, runs = tmp_path / 'averaged.py', {}
    config.write_text(f"""
_base_ = '{attention_config(tmp_path, write_case(tmp_path), form='certified')}'
custom_hooks = [dict(type='EMAHook', momentum=0.3)]
default_hooks = dict(certificate=None)
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_iters=4, val_interval=2)
""")
    for name, options in (('on', ()), ('off', (OFF,))):
        with counted() as weights:
            run_tool('train', config, '--work-dir', tmp_path / name, options=options)
        lines = next((tmp_path / name).glob('*/vis_data/scalars.json')).read_text().splitlines()
        runs[name] = weights.call_count, [line['mIoU'] for line in map(json.loads, lines) if 'mIoU' in line]
    assert runs['on'][0] == START + 4 + 2 and runs['off'][0] == START + 4 + 2 * 4
    assert len(runs['on'][1]) == 2 and runs['on'][1] == runs['off'][1]


@pytest.mark.parametrize('kind', ['val', 'test'])
def test_it_is_left_after_the_last_image(kind):
    model, runner = segmentor_and_runner()
    hook, x = ConstantWeightsHook(), torch.randn(1, 3, 16, 16)
    before, after = getattr(hook, f'before_{kind}_iter'), getattr(hook, f'after_{kind}_iter')
    with counted() as weights, torch.no_grad():
        for index in range(3):
            before(runner, index)
            assert weights.call_count == 1  # when the context is entered
            model(x)
            after(runner, index)
        assert weights.call_count == 1
    assert derived(model, x) == 2
    change(model)  # raises nothing, and uses no old weights
    fresh, _ = segmentor_and_runner()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), fresh(x))


def test_a_change_between_two_images_is_an_error():
    model, runner = segmentor_and_runner(batches=2)
    hook = ConstantWeightsHook()
    hook.before_val_iter(runner, 0)
    hook.after_val_iter(runner, 0)
    change(model)
    hook.before_val_iter(runner, 1)
    with pytest.raises(RuntimeError, match='changed inside constant_weights'):
        hook.after_val_iter(runner, 1)
    assert derived(model, torch.randn(1, 3, 16, 16)) == 2


@pytest.mark.parametrize('again', ['run', 'val', 'test'])
def test_an_evaluation_that_was_broken_off_leaves_nothing_behind(again):
    """Weights have changed by further training; the next evaluation or run uses the new ones without an error."""
    model, runner = segmentor_and_runner()
    hook, x = ConstantWeightsHook(), torch.randn(1, 3, 16, 16)
    hook.before_val_iter(runner, 0)
    with torch.no_grad():
        old = model(x)
    change(model)  # an exception came instead of after_val_iter
    fresh, _ = segmentor_and_runner()
    fresh.load_state_dict(model.state_dict())
    if again == 'run':
        hook.before_run(runner)
        assert derived(model, x) == 2
    else:
        getattr(hook, f'before_{again}_iter')(runner, 0)
        assert derived(model, x) == 0
    with torch.no_grad():
        assert torch.equal(model(x), fresh(x)) and not torch.equal(model(x), old)
    if again != 'run':
        getattr(hook, f'after_{again}_iter')(runner, 2)
        assert derived(model, x) == 2


def test_a_sharded_model_is_left_alone():
    model, runner = segmentor_and_runner()
    model.decode_head._is_fsdp_managed_module = True  # as FullyShardedDataParallel leaves its mark
    hook = ConstantWeightsHook()
    hook.before_val_iter(runner, 0)
    assert derived(model, torch.randn(1, 3, 16, 16)) == 2
    hook.after_val_iter(runner, 2)
