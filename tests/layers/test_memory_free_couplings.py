"""Memory-free chains of couplings: one evaluation of each sub-network, two streams, and the gradients of autograd."""

import sys
from collections import Counter

import pytest
import torch
from helpers.block_cases import net
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_invattn.layers import (
    AdditiveCoupling,
    AffineCoupling,
    CouplingAttention2d,
    GridCoupling,
    InvConv1x1,
    InvertibleSequential,
    MemoryFree,
    OrthogonalConv1x1,
    Split,
    Squeeze,
    ToGrid,
)

KINDS = {
    'additive': lambda c, k: AdditiveCoupling(c, net(c, swap=bool(k % 2)), swap=bool(k % 2)),
    'affine': lambda c, k: AffineCoupling(c, net(c, 2, swap=bool(k % 2)), swap=bool(k % 2)),
    'grid': lambda c, k: GridCoupling(c, net(c, swap=bool(k % 2)), swap=bool(k % 2)),
    'attention': lambda c, k: CouplingAttention2d(c, num_heads=2, position='learned', position_size=3),
}


def chain(kind: str, channels: int = 8, depth: int = 5) -> InvertibleSequential:
    torch.manual_seed(0)
    first = [ToGrid()] if kind == 'grid' else []
    return InvertibleSequential(*first, *(KINDS[kind](channels, k) for k in range(depth)))


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """y, dL/dx and those of all parameters."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    parts = (y,) if isinstance(y, Tensor) else y
    before = [part.detach().clone() for part in parts]
    sum((p * torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p)).sum() for p in parts).backward()
    assert all(map(torch.equal, parts, before))  # streams that change in place are no one else's
    return [*before, x.grad, *(p.grad for p in module.parameters())]


def check(module: InvertibleSequential, x: Tensor, tol: float) -> None:
    """Relative to the largest gradient of each tensor: small ones are sums that cancel."""
    given = x.clone()
    for a, b in zip(gradients(MemoryFree(module), x), gradients(module, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tol * float(b.abs().max()))
    assert torch.equal(x, given)


# x comes back up to the rounding of one sum for each layer, which the inverse of the layers in front amplifies by how
# steep they are: slopes around 1 of these sub-networks stay within a hundred eps, five blocks of free attention do not
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_those_of_autograd(kind, dtype):
    module = chain(kind, depth=2 if kind == 'attention' else 5).to(dtype)
    check(module, torch.randn(2, 8, 6, 5, dtype=dtype), 100 * torch.finfo(dtype).eps)


def test_on_the_grid_they_are_the_same_bits():
    module, x = chain('grid'), torch.randn(2, 8, 6, 5)
    for a, b in zip(gradients(MemoryFree(module), x), gradients(module, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('kind', ['additive', 'affine', 'grid'])
def test_a_sub_network_is_evaluated_once_on_the_way_back(kind):
    module, calls = chain(kind), []
    for layer in module:
        if hasattr(layer, 'net'):
            layer.net.register_forward_hook(lambda net, x, y: calls.append(y.requires_grad))
    MemoryFree(module)(torch.randn(2, 8, 6, 5)).sum().backward()
    assert calls == [False] * 5 + [True] * 5


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket._qualified_op_name] += 1
        return function(*args, **kwargs or {})


def counts(depth: int) -> Counter:
    module, x = MemoryFree(chain('additive', depth=depth)), torch.randn(2, 8, 6, 5)
    with Counted() as counted:
        module(x).sum().backward()
    return counted.calls


def test_streams_stay_apart_and_nothing_is_read(monkeypatch):
    """What one more layer costs: its convolutions, one sum a stream and direction, and no look at a value.

    Beside the fingerprint of the weights, which the CPU alone takes.
    """
    monkeypatch.setattr(sys.modules['mmseg_invattn.ops.memory_free'], 'fingerprint', lambda tensors: [])
    four, eight = counts(4), counts(8)
    more = {name: eight[name] - four[name] for name in eight if eight[name] != four[name]}
    assert more['aten::convolution'] == 2 * 2 * 4 and more['aten::convolution_backward'] == 2 * 4
    assert more['aten::add_'] == more['aten::sub_'] == more['aten::add'] == 4
    assert not {'aten::cat', 'aten::clone', 'aten::split_with_sizes', 'aten::slice'} & more.keys()
    assert not {'aten::_local_scalar_dense', 'aten::linalg_vector_norm', 'aten::isfinite'} & eight.keys()


def test_couplings_between_other_layers():
    """Streams join before what takes the whole map, and before another number of channels."""
    torch.manual_seed(1)
    module = InvertibleSequential(
        KINDS['additive'](5, 0),
        KINDS['affine'](5, 1),
        Squeeze(),
        KINDS['attention'](20, 0),
        OrthogonalConv1x1(20),
        KINDS['additive'](20, 0),
        InvertibleSequential(KINDS['additive'](20, 1), Split(20), KINDS['affine'](10, 0)),
        MemoryFree(KINDS['additive'](10, 1)),
        InvConv1x1(10),
        Split(10, keep=4),
        KINDS['additive'](4, 0),
    ).double()
    check(module, torch.randn(2, 5, 4, 6, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_layouts(batch, layout):
    """A half of one sample is contiguous already, and must be a copy all the same."""
    x = torch.randn(batch, 8, 6, 5, dtype=torch.float64).contiguous(memory_format=layout)
    check(chain('additive').double(), x, 1e-12)


class Offset(nn.Module):
    """Its gradient is the stream's own, which autograd hands on without a copy."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.randn(1, 4, 6, 5))

    def forward(self, x):
        return x + self.offset


class Constant(nn.Module):
    """Reads only the shape, and learns nothing."""

    def forward(self, x):
        return torch.ones_like(x)


@pytest.mark.parametrize('branch', [Offset, nn.Identity, Constant])
def test_gradients_that_share_memory_with_the_streams(branch):
    torch.manual_seed(2)
    layers = [AdditiveCoupling(8, branch(), swap=bool(k % 2)) for k in range(4)]
    check(InvertibleSequential(*layers).double(), torch.randn(1, 8, 6, 5, dtype=torch.float64), 1e-12)


def test_frozen_layers():
    module = chain('additive').double()
    module[1].requires_grad_(False)
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64, requires_grad=True)
    MemoryFree(module)(x).square().sum().backward()
    got = [x.grad, *(p.grad for p in module.parameters() if p.requires_grad)]
    x.grad = None
    module.zero_grad()
    module(x).square().sum().backward()
    want = [x.grad, *(p.grad for p in module.parameters() if p.requires_grad)]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in module[1].parameters())


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match='got features with 6 channels, but the coupling was built for 8'):
        MemoryFree(chain('additive'))(torch.randn(1, 6, 4, 4))


def test_autograds_own_count_of_changes_is_enough():
    """Where values are not compared, as on a GPU: a change that leaves them alone raises all the same."""
    module = chain('additive')
    loss = MemoryFree(module)(torch.randn(1, 8, 4, 4)).sum()
    with torch.no_grad():
        module[0].net[0].weight.mul_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.parametrize('norm', [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_running_statistics_are_refused(norm):
    """They would be updated by the forward pass and once more on the way back."""
    with pytest.raises(ValueError, match='whose output does not depend on its input alone'):
        AdditiveCoupling(8, nn.Sequential(nn.Conv2d(4, 4, 1), norm))
    AdditiveCoupling(8, nn.Sequential(nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)))
