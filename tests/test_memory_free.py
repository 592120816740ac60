"""Backpropagation with recovered activations: what is held, and that it is right in every setting."""
import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    InvNonLocal2d,
    MemoryFree,
    NotConvergedError,
    Split,
    Squeeze,
)


def flow(channels: int = 4) -> InvertibleSequential:
    """Every kind of layer, nested, with a split and a shared layer."""
    shared = InvConvResidual(channels)
    return InvertibleSequential(
        shared, ActNorm2d(channels), shared,
        InvertibleSequential(Squeeze(), InvConv1x1(4 * channels), Split(4 * channels),
                             InvNonLocal2d(2 * channels, num_heads=2)),
        AdditiveCoupling(2 * channels, nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(),
                                                     nn.Conv2d(6, channels, 1))))


def gradients(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum()
        for part in ((y, ) if torch.is_tensor(y) else y)).backward()
    names = {name.removeprefix('module.'): p.grad.clone() for name, p in module.named_parameters()}
    return {**names, 'x': x.grad}


@pytest.mark.parametrize('dtype, rtol', [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_gradients_of_a_nested_sequence(dtype, rtol):
    torch.manual_seed(0)
    module, x = flow().to(dtype), torch.randn(2, 4, 4, 6, dtype=dtype)
    module(x)
    plain, recovered = gradients(module, x), gradients(MemoryFree(module), x)
    assert plain.keys() == recovered.keys() and len(plain) > 20
    for name in plain:
        torch.testing.assert_close(recovered[name], plain[name], rtol=rtol,
                                   atol=rtol * float(plain[name].abs().max()), msg=name)


def test_first_batch_and_nested_wrappers():
    """The data-dependent start happens in the same pass; a wrapper inside another adds nothing."""
    torch.manual_seed(1)
    plain = InvertibleSequential(ActNorm2d(4), InvConvResidual(4)).double()
    wrapped = MemoryFree(InvertibleSequential(MemoryFree(copy.deepcopy(plain)))).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64) * 3 + 2
    assert torch.equal(plain(x), wrapped(x)) and bool(plain[0].initialised)
    for a, b in zip(gradients(plain, x).values(), gradients(wrapped, x).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_frozen_parts_and_inputs_without_gradient():
    torch.manual_seed(2)
    plain, x = InvertibleSequential(InvConvResidual(3), InvConv1x1(3)).double(), torch.randn(1, 3, 4, 4).double()
    plain[0].requires_grad_(False)
    wrapped = MemoryFree(plain)
    wrapped(x).square().sum().backward()
    got = [p.grad.clone() for p in plain[1].parameters()]
    assert all(p.grad is None for p in plain[0].parameters())
    plain.zero_grad()
    plain(x).square().sum().backward()
    torch.testing.assert_close(got, [p.grad for p in plain[1].parameters()], rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert not wrapped(x).requires_grad
    plain.requires_grad_(False)
    assert not wrapped(x).requires_grad


def test_unused_parameters_have_no_gradient():
    coupling = AdditiveCoupling(4, nn.Conv2d(2, 2, 1))
    coupling.register_parameter('unused', nn.Parameter(torch.ones(3)))
    MemoryFree(coupling)(torch.randn(1, 4, 2, 2)).sum().backward()
    assert coupling.unused.grad is None and coupling.net.weight.grad is not None


def test_outputs_that_alias_the_input():
    """A split of one sample hands out views of x: what is changed in place afterwards must not reach x."""
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    y = MemoryFree(Squeeze(1))(x)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    trunk, latent = MemoryFree(Split(4))(x)
    (trunk.sum() + 2 * latent.sum()).backward()
    assert x.grad[:, :2].eq(1).all() and x.grad[:, 2:].eq(2).all()


def test_one_output_may_go_unused():
    x = torch.randn(2, 4, 2, 2, requires_grad=True)
    MemoryFree(Split(4))(x)[1].sum().backward()
    assert x.grad[:, :2].eq(0).all() and x.grad[:, 2:].eq(1).all()


def test_wrong_use_is_refused():
    torch.manual_seed(3)
    module = MemoryFree(InvConvResidual(3))
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    y = module(x)
    with torch.no_grad():
        module.module.convs[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match='changed in place between forward and backward'):
        y.sum().backward()
    with pytest.raises(RuntimeError, match='cannot be differentiated again'):
        torch.autograd.grad(module(x).sum(), x, create_graph=True)
    y = module(x)
    y.mul_(2)  # autograd's own check of saved tensors
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


def test_no_gradient_rather_than_a_wrong_one():
    torch.manual_seed(4)
    module = MemoryFree(InvConvResidual(3, contraction=0.99), max_iter=1)
    with torch.no_grad():
        for conv in module.module.convs:
            conv.weight.mul_(10)
    y = module(torch.randn(1, 3, 4, 4))
    with pytest.raises(NotConvergedError):
        y.sum().backward()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_under_autocast_everything_inside_is_float32(dtype):
    torch.manual_seed(5)
    module, stem = flow(), nn.Conv2d(3, 4, 1)
    x = torch.randn(2, 3, 4, 4)
    module(stem(x))
    wrapped = MemoryFree(module)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = stem(x)
        assert features.dtype == torch.bfloat16
        features = features.to(dtype).detach().requires_grad_()
        y = wrapped(features)
        assert all(part.dtype == torch.float32 for part in y)
        loss = sum(part.square().sum() for part in y)
    loss.backward()
    got, at = [p.grad.clone() for p in module.parameters()], features.grad.clone()
    module.zero_grad()
    plain = features.detach().float().requires_grad_()
    sum(part.square().sum() for part in module(plain)).backward()
    for a, b in zip(got, [p.grad for p in module.parameters()], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    torch.testing.assert_close(at, plain.grad.to(dtype), rtol=2e-2 if dtype == torch.bfloat16 else 1e-3, atol=1e-3)


def test_compiled_surroundings():
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), MemoryFree(InvertibleSequential(InvConvResidual(4), InvConv1x1(4))),
                          nn.Tanh(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    want = gradients(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager')
    got = gradients(compiled, x)
    assert len(got) == len(want)
    for a, b in zip(got.values(), want.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('layer', [InvConvResidual, InvConv1x1, ActNorm2d, InvNonLocal2d, lambda c: AdditiveCoupling(
    c, nn.Conv2d(c // 2, c // 2, 3, padding=1))])
def test_plain_layers_compile(layer):
    torch.manual_seed(7)
    model = nn.Sequential(layer(4), nn.Tanh())
    x = torch.randn(2, 4, 5, 5)
    model(x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend='aot_eager')(x), model(x))


def peak_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Largest sum of what forward and backward allocated and did not free yet, from the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        module(x).sum().backward()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    assert events
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_activation_memory_does_not_grow_with_depth():
    torch.manual_seed(8)
    x = torch.randn(1, 8, 64, 64)
    one, eight = (InvertibleSequential(*[InvConvResidual(8, hidden_channels=32) for _ in range(n)]) for n in (1, 8))
    for module in (one, eight):
        module(x).sum().backward()  # gradients of the parameters are allocated
    stored = [peak_bytes(module, x) for module in (one, eight)]
    recovered = [peak_bytes(MemoryFree(module), x) for module in (one, eight)]
    assert stored[1] > 4 * stored[0]
    assert recovered[1] < 1.25 * recovered[0]
    assert recovered[1] < stored[1] / 2


def _distributed_worker(rank: int, folder: str) -> None:
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(rank)  # DDP broadcasts the parameters of rank 0
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 1), MemoryFree(flow())).double())
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 3 + 1
    mine = x[:1] if rank == 0 else x[1:]  # shares of different size
    model(mine)
    for _ in range(2):
        model.zero_grad()
        sum(part.square().sum() for part in model(mine)).backward()
    torch.save(dict(state=model.module.state_dict(), grads=[p.grad for p in model.parameters()]), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_distributed_gradients_and_data_dependent_start(tmp_path):
    """Two processes: the start is that of the whole batch, the gradient the mean of the shares' gradients."""
    mp.spawn(_distributed_worker, args=(str(tmp_path), ), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))
    for name in first['state']:
        torch.testing.assert_close(first['state'][name], second['state'][name], rtol=0, atol=0)
    torch.testing.assert_close(first['grads'], second['grads'], rtol=0, atol=0)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), flow()).double()
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 3 + 1
    model(x)  # the start, from the whole batch
    for name, value in model.state_dict().items():
        name = name.replace('1.layers', '1.module.layers', 1)
        torch.testing.assert_close(first['state'][name], value, rtol=1e-9, atol=1e-9, msg=name)
    sum(part.square().sum() for part in model(x)).div(2).backward()
    for a, p in zip(first['grads'], model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-8, atol=1e-8 * float(p.grad.abs().max()))
