"""Memory of a training step: against counts by hand, and shapes alone against a step that computes everything."""

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmseg_invattn.evaluation import step_memory as module
from mmseg_invattn.evaluation.largest_image import largest_images
from mmseg_invattn.evaluation.step_memory import step_memory
from mmseg_invattn.evaluation.training_memory import memory_free_places, memory_free_types, training_memory
from mmseg_invattn.models import InvResNet, RevNet2d

STAGES = dict(strides=(4, 2), out_indices=(0, 1))
SHAPE, PIXELS = (2, 3, 8, 10), 2 * 8 * 10
FLOAT = 4  # bytes, also of a loss


class Exponential(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (self.weight * x).exp()


class Twice(nn.Module):
    """Two convolutions with dropout, checkpointed or not."""

    def __init__(self, recomputed: bool):
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(), nn.Conv2d(16, 3, 1)]
        self.body, self.recomputed = nn.Sequential(*layers), recomputed

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False) if self.recomputed else self.body(x)


def revnet(blocks: int, memory_free: bool) -> RevNet2d:
    return RevNet2d(stage_blocks=(blocks,) * 2, hidden_channels=(8,) * 2, memory_free=memory_free, **STAGES)


@pytest.mark.parametrize('computed', [False, True])
def test_what_convolutions_keep(computed):
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
    memory = step_memory(nn.Sequential(first, nn.ReLU(), second), SHAPE, part=first, computed=computed)
    # the images, what ReLU gives, and what is squared; not what the first convolution gives
    assert memory.kept == PIXELS * (3 + 4 + 2) * FLOAT + FLOAT
    assert memory.part == PIXELS * 4 * FLOAT
    assert memory.gradients == (4 * 3 * 9 + 4 + 2 * 4 + 2) * FLOAT
    assert memory.peak > memory.kept


@pytest.mark.parametrize('computed', [False, True])
def test_the_peak_of_a_product_and_an_exponential(computed):
    memory = step_memory(Exponential(), SHAPE, lambda model, x: model(x).sum(), computed=computed)
    maps = PIXELS * 3 * FLOAT
    assert memory.kept == 2 * maps + FLOAT  # x and exp(w x)
    # forward x, w x and its exponential; backward x, the gradient of w x, and its product with x
    assert 3 * maps <= memory.peak <= 3 * maps + 4 * FLOAT


@pytest.mark.parametrize('recomputed', [False, True])
def test_shapes_alone_give_what_a_computed_step_takes(recomputed):
    model, state = Twice(recomputed), torch.get_rng_state()
    found = step_memory(model, SHAPE)
    assert found == step_memory(model, SHAPE, computed=True) == step_memory(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())
    assert (found.kept < PIXELS * 16 * FLOAT) == recomputed
    assert found.peak > PIXELS * 16 * FLOAT


@pytest.mark.slow
def test_recovered_activations_are_flat_in_depth():
    shape = (2, 3, 64, 96)
    found = {(blocks, free): step_memory(revnet(blocks, free), shape) for blocks in (2, 8) for free in (True, False)}
    peak = {key: memory.peak - memory.gradients for key, memory in found.items()}
    assert found[8, True].kept <= 1.02 * found[2, True].kept and peak[8, True] <= 1.15 * peak[2, True], found
    assert found[8, False].kept > 3 * found[2, False].kept, found


def test_recovered_activations_by_shapes_alone():
    model, shape = revnet(1, True), (2, 3, 32, 48)
    found = step_memory(model, shape)
    assert found == step_memory(model, shape, computed=True)
    large = step_memory(model, (8, 3, 1024, 1536))  # tens of GiB if it were computed
    assert large.kept / found.kept == pytest.approx(4 * 32 * 32, rel=1e-2)


@pytest.mark.parametrize('batch', [pytest.param(3, marks=pytest.mark.slow), 4])
def test_an_iterative_inverse_is_rehearsed(batch, monkeypatch):
    torch.manual_seed(0)
    backbone = InvResNet(stage_blocks=(1,) * 2, hidden_channels=(8,) * 2, memory_free=True, **STAGES)
    monkeypatch.setattr(module, 'REHEARSED', 32)
    shape, computed = (batch, 3, 64, 32), []
    expected = step_memory(backbone, shape, computed=True)
    counted = module._counted
    monkeypatch.setattr(module, '_counted', lambda *args: computed.append(args[1]) or counted(*args))
    found = step_memory(backbone, shape)
    assert found.kept == expected.kept
    # of two images in a rehearsal, one may converge earlier than one of the four
    assert found.peak == pytest.approx(expected.peak, rel=1e-3)
    assert computed == [shape, (2 if batch == 4 else 3, 3, 32, 32), shape]  # not decided; rehearsed; decided


def test_a_loss_that_chooses_pixels_by_their_values_is_computed(monkeypatch):
    model, shape = nn.Conv2d(3, 2, 1), (2, 3, 96, 96)

    def loss(model, x):
        y = model(x)
        return y[y > 0].sum()

    found = step_memory(model, shape, loss)
    assert found == step_memory(model, shape, loss, computed=True)
    monkeypatch.setattr(module, 'available_memory', lambda: 300_000)
    with pytest.raises(MemoryError, match=r'images of shape \(2, 3, 96, 96\) decides by .* 0.0 GiB .* choose smaller'):
        step_memory(model, shape, loss)


def config(optimizer: dict | None, **backbone) -> Config:
    head = dict(type='FCNHead', in_channels=48, channels=4, num_convs=1, num_classes=3, norm_cfg=dict(type='BN'))
    decode = dict(head, in_index=-1, loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    cfg = dict(
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', mean=[0] * 3, std=[1] * 3, size=(32, 48)),
            backbone=backbone,
            decode_head=decode,
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        ),
        train_dataloader=dict(batch_size=2),
    )
    return Config(cfg | (dict(optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer)) if optimizer else {}))


REVNET = dict(type='RevNet2d', strides=(2, 2), out_indices=(1,), stage_blocks=(2, 2), hidden_channels=(8, 8))
PLAIN = dict(type='PlainConvNet', channels=48)


@pytest.mark.parametrize(
    'optimizer, copies', [(dict(type='SGD', lr=0.1, momentum=0.9), 1), (dict(type='AdamW', lr=0.1), 2), (None, None)]
)
def test_a_segmentor_with_what_its_optimiser_remembers(optimizer, copies):
    cfg = config(optimizer, **PLAIN)
    memory = training_memory(cfg)
    assert memory.shape == (2, 3, 32, 48) and list(memory.steps) == ['stored'] and memory.configured == 'stored'
    step = memory.steps['stored']
    if copies is None:
        assert memory.optimizer is None
    else:  # Adam counts its steps for each parameter
        assert 0 <= memory.optimizer - copies * step.gradients <= 1000
    assert step.gradients < memory.parameters < step.gradients + 2000  # the buffers
    assert memory.total(step) == memory.parameters + (memory.optimizer or 0) + step.peak
    assert 0 < step.part < step.kept <= step.peak


@pytest.mark.parametrize('setting', [dict(), pytest.param(dict(memory_free=False), marks=pytest.mark.slow)])
def test_a_setting_anywhere_in_the_config_is_tried_both_ways(setting):
    cfg = config(dict(type='SGD', lr=0.1, momentum=0.9), **REVNET, **setting)
    before = cfg.pretty_text
    memory = training_memory(cfg, (64, 96))
    assert cfg.pretty_text == before and memory.shape == (2, 3, 64, 96)
    assert memory.configured == ('memory-free' if setting.get('memory_free', True) else 'stored')
    stored, free = memory.steps['stored'], memory.steps['memory-free']
    assert free.part < stored.part / 3 and free.kept - free.part == stored.kept - stored.part  # the heads' is the same
    assert memory.total(free) < memory.total(stored)


def test_places_of_the_setting():
    nested = dict(
        type='EncoderDecoder',
        backbone=dict(type='RevNet2d'),
        neck=[dict(type='Unknown', inner=dict(memory_free=False)), dict(type='PlainConvNet')],
        decode_head=[dict(type='FCNHead', memory_free=True)],
        auxiliary_head=dict(type='InvResNet', memory_free=False),
    )
    found = [(place.get('type'), place.get('memory_free'), default) for place, default in memory_free_places(nested)]
    assert found == [
        ('RevNet2d', None, True),
        (None, False, False),
        ('FCNHead', True, False),
        ('InvResNet', False, True),
    ]
    assert {'RevNet2d', 'InvResNet'} <= set(memory_free_types())
    assert 'PlainConvNet' not in memory_free_types()


def test_mixed_precision_keeps_half():
    plain, amp = config(dict(type='SGD', lr=0.1), **PLAIN), config(dict(type='SGD', lr=0.1), **PLAIN)
    amp.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    whole, half = (training_memory(cfg, (256, 256)).steps['stored'] for cfg in (plain, amp))
    # besides half of the maps, the images and the weights in half precision
    images, weights = 2 * 3 * 256**2 * 2, whole.gradients / 2
    assert whole.part / 2 <= half.part <= whole.part / 2 + images + weights and half.gradients == whole.gradients


def test_a_step_that_fails_says_why():
    cfg = config(None, **PLAIN)
    cfg.model.decode_head.in_channels = 7
    memory = training_memory(cfg)
    assert 'channels' in memory.steps['stored']


def test_the_largest_image_fits_and_the_next_does_not():
    cfg = config(None, **REVNET)
    small, large = (training_memory(cfg, size) for size in ((64, 96), (160, 256)))
    budgets = [large.total(large.steps['memory-free']), small.total(small.steps['stored']), 1000]
    found = {(each.activations, each.budget): each for each in largest_images(cfg, budgets, (32, 48))}
    assert len(found) == 6
    for (name, budget), each in found.items():
        if budget == 1000:
            assert each.size is None and each.beyond == (32, 64)
            continue
        assert each.total <= budget < each.total_beyond
        counted = training_memory(cfg, each.size)
        assert each.total == counted.total(counted.steps[name])
    assert found['memory-free', budgets[0]].size == (160, 256) and found['stored', budgets[1]].size == (64, 96)
    assert found['stored', budgets[0]].size < found['memory-free', budgets[0]].size
