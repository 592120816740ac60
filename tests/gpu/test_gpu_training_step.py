"""A training step never waits for the device: the host queues the next kernels while the last ones run.

Left out are what the first step does, when a normalisation starts from the data, and MMSegmentation's own losses, whose
accuracy looks at a mask. A memory-free residual layer has to look at its solver; couplings have none.
"""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers.block_cases import net
from helpers.devices import DEVICES
from helpers.head_cases import HEADS, build_head, features
from helpers.waiting import WaitsForDeviceError, no_waiting
from torch import Tensor, nn

from mmseg_invattn import layers as project
from mmseg_invattn.layers import FORMS, AdditiveCoupling, InvertibleSequential, MemoryFree
from mmseg_invattn.layers.attention.modes import MODES

OPTIONS = [
    dict(num_heads=2),
    dict(num_heads=2, heads='shared'),
    dict(sharpness='learned'),
    dict(sharpness='log_n'),
    dict(position='learned', position_size=6),
    dict(position='quadratic'),
    dict(key_pooling=2),
    dict(neighbourhood='criss_cross'),
    dict(neighbourhood='window', window_size=4),
    dict(precision='autocast'),
]
ATTENTION = [(form, dict(mode=mode)) for form in FORMS for mode in MODES]
ATTENTION += [('certified', more) for more in OPTIONS]
LAYERS = {
    'AdditiveCoupling': lambda: AdditiveCoupling(8, net(8)),
    'ActNorm2d': lambda: project.ActNorm2d(8),
    'InvConv1x1': lambda: project.InvConv1x1(8),
    'OrthogonalConv1x1': lambda: project.OrthogonalConv1x1(8),
    'InvConvResidual': lambda: project.InvConvResidual(8),
    'InvChannelAttention': lambda: project.InvChannelAttention(8),
    'InvRelativeAttention2d': lambda: project.InvRelativeAttention2d(8),
}


WITHOUT_SOLVER = {
    'convolutions': lambda k: AdditiveCoupling(8, net(8, swap=k % 2 == 1), swap=k % 2 == 1),
    'attention': lambda k: FORMS['coupling'](8),
}


@pytest.fixture(scope='module', params=[*DEVICES, 'meta'])
def anywhere(request: pytest.FixtureRequest) -> str:
    """A device, or the one that computes shapes alone."""
    return request.param


class Training:
    """Forward, loss, backward and the optimiser's step of a module that has had its first batch.

    Args:
        module: on the CPU.
        x: its batch, one feature map or several.
        labels: of pixels; None: the loss is that of a regression.
    """

    def __init__(self, module: nn.Module, x: Tensor | list[Tensor], device: str, labels: Tensor | None = None):
        module.train()(x)
        self.module = module.to(device)
        self.x = x.to(device) if isinstance(x, Tensor) else [level.to(device) for level in x]
        self.labels = None if labels is None else labels.to(device)
        self.optimiser = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

    def step(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        out = self.module(self.x)
        outputs = out if isinstance(out, tuple) else (out,)
        if self.labels is None:
            losses = [y.square().mean() for y in outputs]
        else:
            resized = [F.interpolate(y, self.labels.shape[1:], mode='bilinear') for y in outputs]
            losses = [F.cross_entropy(y, self.labels, ignore_index=255) for y in resized]
        sum(losses).backward()
        self.optimiser.step()

    def assert_steps_without_waiting(self) -> None:
        device = next(self.module.parameters()).device.type
        if device == 'cuda':
            self.step()  # compiles kernels, and tries them
        with no_waiting(device):
            self.step()
        assert any(p.grad is not None for p in self.module.parameters())


@pytest.mark.parametrize('name', HEADS)
def test_heads(anywhere, name):
    torch.manual_seed(0)
    labels = torch.randint(3, (2, 12, 12))
    labels[0, 0] = 255
    Training(build_head(name), features(), anywhere, labels).assert_steps_without_waiting()


@pytest.mark.parametrize('form, options', ATTENTION, ids=str)
def test_attention(anywhere, form, options):
    torch.manual_seed(0)
    Training(FORMS[form](8, **options), torch.randn(2, 8, 6, 7), anywhere).assert_steps_without_waiting()


@pytest.mark.parametrize('name', LAYERS)
def test_other_layers(anywhere, name):
    torch.manual_seed(0)
    Training(LAYERS[name](), torch.randn(2, 8, 6, 8), anywhere).assert_steps_without_waiting()


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling'])
def test_log_determinants(anywhere, form):
    torch.manual_seed(0)
    layer, x = FORMS[form](8), torch.randn(2, 8, 4, 4)
    layer(x)
    layer, x = layer.to(anywhere), x.to(anywhere)
    with no_waiting(anywhere):
        y, log_det = layer.forward_and_log_abs_det(x, n_terms=3)
        (y.square().sum() - log_det.sum()).backward()


@pytest.mark.parametrize('name', WITHOUT_SOLVER)
def test_memory_free_couplings(device, name, monkeypatch):
    torch.manual_seed(0)
    if device == 'cpu':  # where alone the values of parameters are compared
        monkeypatch.setattr(import_module('mmseg_invattn.ops.memory_free'), 'fingerprint', lambda state: [])
    module = MemoryFree(InvertibleSequential(*map(WITHOUT_SOLVER[name], range(3))))
    Training(module, torch.randn(2, 8, 6, 7), device).assert_steps_without_waiting()


WAITING = {
    'a number': lambda x: x.sum().item(),
    'a decision': lambda x: bool((x > 0).any()),
    'places': lambda x: x.nonzero(),
    'a mask': lambda x: x[x > 0],
    'a mask to write by': lambda x: x.clone().masked_fill_(x > 2, 0).__setitem__(x > 0, torch.ones_like(x[x > 0])),
    'a checked solution': lambda x: torch.linalg.solve(x, x),
}


@pytest.mark.parametrize('what', WAITING)
def test_waiting_is_seen(anywhere, what):
    x = torch.randn(4, 4).to(anywhere)
    with pytest.raises((RuntimeError, NotImplementedError)), no_waiting(anywhere):
        WAITING[what](x)


def test_waiting_inside_of_an_operator_and_copies_to_the_device_are_seen(monkeypatch):
    from mmseg_invattn.ops.attention import blocked_positive

    q = torch.randn(1, 1, 3, 2)
    forward = blocked_positive._forward
    monkeypatch.setattr(blocked_positive, '_forward', lambda q, *rest: q.sum().item() and forward(q, *rest))
    with pytest.raises(WaitsForDeviceError, match='_local_scalar_dense'), no_waiting('cpu'):
        blocked_positive.blocked_positive_attention(q, q, q)
    with pytest.raises(WaitsForDeviceError, match='_to_copy'), no_waiting('meta'):
        torch.eye(3).to(q.to('meta'))
