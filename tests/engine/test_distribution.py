"""Sharding, accumulation, mixed precision, compilation, memory formats and averaged weights change no result."""

import copy
import sys

import pytest
import torch
from helpers import fsdp_steps
from helpers.runtime_case import run_tool, write_case
from helpers.tiny_segmentor import batch, build_segmentor, loss_of
from helpers.two_processes import in_two_processes
from mmengine.optim import OptimWrapper

from mmseg_invattn.layers import FORMS
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.ops import max_token_norm


def test_a_sharded_step_equals_that_of_one_process(tmp_path):
    from torch.distributed import fsdp

    if not hasattr(fsdp, 'fully_shard'):
        pytest.skip('this torch has no torch.distributed.fsdp.fully_shard')
    out = tmp_path / 'weights.pth'
    in_two_processes(fsdp_steps.work, str(out))
    one, two = fsdp_steps.step(), torch.load(out, weights_only=True)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f'{name}: {m}')


def test_accumulated_gradients_equal_those_of_the_larger_batch():
    torch.manual_seed(0)
    model = build_segmentor().double()
    other, (images, samples) = copy.deepcopy(model), batch(dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    for part in (slice(0, 2), slice(2, 4)):
        with wrapper.optim_context(model):
            loss = loss_of(model, images[part], samples[part])
        wrapper.update_params(loss)
    OptimWrapper(torch.optim.SGD(other.parameters(), lr=0.1)).update_params(loss_of(other, images, samples))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-8, atol=1e-8)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('form', ['certified', 'conditional'])
@pytest.mark.parametrize('mode', MODES)
def test_autocast_leaves_certificate_and_inverse_in_float32(mode, form, dtype):
    torch.manual_seed(0)
    block = FORMS[form](8, mode=mode)
    x = torch.randn(2, 8, 6, 6)
    plain, bound, weights = block(x), block.lipschitz_bound(36), block.weights()
    with torch.autocast('cpu', dtype=dtype):
        y = block(x)
        assert block.lipschitz_bound(36) == bound
        for ours, theirs in zip(block.weights().bounds, weights.bounds, strict=True):
            assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
        x_hat, info = block.inverse(y)
    assert y.dtype == x_hat.dtype == torch.float32 and torch.equal(y, plain)
    assert bool((max_token_norm(x_hat - x) <= info.error_bound).all()) and bool(info.converged.all())
    y.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_segmentor_trains_under_autocast_and_its_attention_inverts(dtype):
    torch.manual_seed(0)
    model, (images, samples) = build_segmentor(), batch()
    bound = model.decode_head.attention.lipschitz_bound()
    with torch.autocast('cpu', dtype=dtype):
        loss = loss_of(model, images, samples)
        with torch.no_grad():
            seen, recovered, info = model.decode_head.invert_attention(model.extract_feat(images))
        assert model.decode_head.attention.lipschitz_bound() == bound
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert seen.dtype in (dtype, torch.float32) and recovered.dtype == torch.float32
    assert bool((max_token_norm(recovered - seen.float()) <= info.error_bound).all())


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
def test_a_compiled_segmentor_equals_the_eager_one(mode):
    torch.manual_seed(0)
    model, (images, samples) = build_segmentor(dict(mode=mode)), batch()
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend='aot_eager')
    losses = [loss_of(m, images, samples) for m in (model, compiled)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-6)
    model.eval(), compiled.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'paper', 'none'])
def test_channels_last_changes_nothing(form):
    torch.manual_seed(0)
    model, (images, samples) = build_segmentor(dict(form=form)).double(), batch(dtype=torch.float64)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    losses = loss_of(model, images, samples), loss_of(other, images.to(memory_format=torch.channels_last), samples)
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-8, atol=1e-10)


def test_validation_with_averaged_weights_takes_those_weights(tmp_path):
    """What is derived once for a validation follows EMAHook, which swaps parameters before and after it."""
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{write_case(tmp_path)}'
model = dict(decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, channels=8, num_classes=3,
                              dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
                              loss_decode=dict(type='CrossEntropyLoss'), attention=dict(num_heads=2)))
custom_imports = dict(imports=['ema_probe'])
custom_hooks = [dict(type='EMAHook', momentum=0.3), dict(type='EMAProbe')]
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_iters=3, val_interval=1)
""")
    (tmp_path / 'ema_probe.py').write_text("""
import copy
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

OUTPUTS = []

@HOOKS.register_module(force=True)
class EMAProbe(Hook):
    priority = 'LOWEST'

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx:
            return
        torch.manual_seed(0)
        images = torch.randn(1, 3, 24, 24)
        fresh = copy.deepcopy(runner.model).eval()  # derives its own weights
        with torch.no_grad():
            OUTPUTS.append((runner.model(images), fresh(images)))
""")
    sys.path.insert(0, str(tmp_path))
    try:
        run_tool('train', config, '--work-dir', tmp_path / 'work')
        import ema_probe
    finally:
        sys.path.remove(str(tmp_path))
    assert len(ema_probe.OUTPUTS) == 3
    assert all(torch.equal(ours, fresh) for ours, fresh in ema_probe.OUTPUTS)
    assert not torch.equal(ema_probe.OUTPUTS[1][0], ema_probe.OUTPUTS[2][0])
