"""Backpropagation with recovered activations: what is held, and that it is right in every setting."""

import copy
import gc

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers.block_cases import net
from helpers.peak_memory import peak_bytes
from helpers.two_processes import in_two_processes
from torch import Tensor, nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    GridCoupling,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    MemoryFree,
    NotConvergedError,
    OrthogonalConv1x1,
    PaperAttention2d,
    Split,
    Squeeze,
    ToGrid,
    solve,
)
from mmseg_invattn.ops import max_token_norm, solve_fixed_point


def flow(channels: int = 4) -> InvertibleSequential:
    """Every kind of layer, nested, with a split and a shared layer."""
    shared = InvConvResidual(channels)
    return InvertibleSequential(
        shared,
        ActNorm2d(channels),
        shared,
        InvertibleSequential(
            Squeeze(), InvConv1x1(4 * channels), Split(4 * channels), CertifiedAttention2d(2 * channels, num_heads=2)
        ),
        AdditiveCoupling(
            2 * channels, nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, channels, 1))
        ),
    )


def gradients(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    sum(
        (part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum()
        for part in ((y,) if torch.is_tensor(y) else y)
    ).backward()
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
        torch.testing.assert_close(
            recovered[name], plain[name], rtol=rtol, atol=rtol * float(plain[name].abs().max()), msg=name
        )


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
    with pytest.raises(RuntimeError, match='changed between forward and backward'):
        y.sum().backward()
    with pytest.raises(RuntimeError, match='cannot be differentiated again'):
        torch.autograd.grad(module(x).sum(), x, create_graph=True)
    y = module(x)
    y.mul_(2)  # autograd's own check of saved tensors
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


def step_of(parameters: list[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
    """An optimiser whose next step moves every parameter."""
    optimiser = torch.optim.AdamW(parameters, lr=0.1, fused=fused)
    for p in parameters:
        p.grad = torch.ones_like(p)
    return optimiser


def largest(module: nn.Module) -> Tensor:
    """The data of the parameter with most numbers."""
    return max(module.parameters(), key=Tensor.numel).data


CHANGES = {
    'fused AdamW': lambda module: step_of(list(module.parameters()), True).step(),
    'AdamW': lambda module: step_of(list(module.parameters()), False).step(),
    'data': lambda module: next(module.parameters()).data.add_(2),
    'data times 2': lambda module: largest(module).mul_(2),
    'data negated': lambda module: largest(module).neg_(),
    'data turned round': lambda module: largest(module).copy_(largest(module).flip(-1)),
    'a view': lambda module: next(module.parameters()).detach().flatten()[:1].add_(1),
    'a buffer': lambda module: next(module.buffers()).add_(0.5),
}


@pytest.mark.parametrize('change', CHANGES)
def test_any_change_between_forward_and_backward_is_refused(change):
    """Also those that raise no version counter."""
    torch.manual_seed(3)
    module = MemoryFree(InvertibleSequential(InvConv1x1(4), PaperAttention2d(4, reduction=1, gamma='scalar'))).eval()
    loss = module(torch.randn(1, 4, 4, 4)).square().sum()
    with torch.no_grad():
        CHANGES[change](module.module[1])
    with pytest.raises(RuntimeError, match='was changed between forward and backward'):
        loss.backward()


def test_parameters_that_were_replaced_are_refused():
    torch.manual_seed(3)
    module, x = MemoryFree(InvConvResidual(3)), torch.randn(1, 3, 4, 4)
    others = {name: p.detach() + 1 for name, p in module.named_parameters()}
    y = torch.func.functional_call(module, {name: p.requires_grad_() for name, p in others.items()}, (x,))
    with pytest.raises(RuntimeError, match='were replaced between forward and backward'):
        y.sum().backward()
    y = module(x)
    module.load_state_dict({name: p.detach() for name, p in others.items()}, assign=True)
    with pytest.raises(RuntimeError, match='were replaced between forward and backward'):
        y.sum().backward()


def test_a_second_forward_pass_that_iterates_is_refused():
    """Form paper moves its u and v in every training pass; in eval mode it may run as often as wanted."""
    torch.manual_seed(3)
    module, x = MemoryFree(PaperAttention2d(4, reduction=1)), torch.randn(1, 4, 3, 3)
    with torch.no_grad():  # weak enough to be inverted, and u and v not yet where the iteration ends
        module.module.gamma.weight.mul_(0.01)
        module.module.value.weight.normal_()
    y, _ = module(x), module(x)
    with pytest.raises(RuntimeError, match='changed between forward and backward.*before another forward pass'):
        y.sum().backward()
    module(x).sum().backward()
    y, _ = module.eval()(x), module(x)
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
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        MemoryFree(InvertibleSequential(InvConvResidual(4), InvConv1x1(4))),
        nn.Tanh(),
        nn.Conv2d(4, 2, 1),
    ).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    want = gradients(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager')
    got = gradients(compiled, x)
    assert len(got) == len(want)
    for a, b in zip(got.values(), want.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    'layer',
    [
        InvConvResidual,
        InvConv1x1,
        ActNorm2d,
        CertifiedAttention2d,
        lambda c: AdditiveCoupling(c, nn.Conv2d(c // 2, c // 2, 3, padding=1)),
    ],
)
def test_plain_layers_compile(layer):
    torch.manual_seed(7)
    model = nn.Sequential(layer(4), nn.Tanh())
    x = torch.randn(2, 4, 5, 5)
    model(x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend='aot_eager')(x), model(x))


class DropPath(nn.Module):
    """Stochastic depth, as backbones have it: the branch of some samples, in training."""

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.rand(len(x), 1, 1, 1, dtype=x.dtype) < 0.6
        return x * keep / 0.6


class FunctionalDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, self.training)


RANDOM = {'stochastic depth': DropPath, 'functional dropout': FunctionalDropout, 'RReLU': nn.RReLU}


def random_coupling(kind: str, coupling: type, swap: bool) -> nn.Module:
    outputs = 2 if coupling is AffineCoupling else 1
    return coupling(
        4, nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2 * outputs, 1), RANDOM[kind]()), swap
    )


@pytest.mark.parametrize('coupling', [AdditiveCoupling, AffineCoupling, GridCoupling])
@pytest.mark.parametrize('kind', RANDOM)
def test_random_numbers_are_drawn_again(kind, coupling):
    torch.manual_seed(11)
    module = InvertibleSequential(
        ToGrid(),
        random_coupling(kind, coupling, False),
        InvertibleSequential(Squeeze(1)),
        random_coupling(kind, coupling, True),
        random_coupling(kind, coupling, False),
    )
    module, x = module.double(), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    results = []
    for run in (module, MemoryFree(module), MemoryFree(module)):
        torch.manual_seed(12 if len(results) < 2 else 13)
        results.append(gradients(run, x) | dict(next=torch.rand(3)))
    for name in results[0]:
        if coupling is GridCoupling:  # x comes back bit for bit, and so does everything else
            assert torch.equal(results[0][name], results[1][name]), name
        torch.testing.assert_close(results[1][name], results[0][name], rtol=1e-11, atol=1e-11, msg=name)
    assert not torch.allclose(results[0]['x'], results[2]['x'], rtol=1e-3)  # other numbers, other gradients


@pytest.mark.parametrize('coupling', [AdditiveCoupling, AffineCoupling, GridCoupling])
@pytest.mark.parametrize('kind', RANDOM)
def test_the_inverse_of_a_random_sub_network_is_refused(kind, coupling):
    torch.manual_seed(14)
    module, x = random_coupling(kind, coupling, False), torch.randn(8, 4, 5, 5)
    with torch.no_grad():
        with pytest.raises(ValueError, match=f'the sub-network of {coupling.__name__} gave two different outputs for'):
            module.inverse(module(x))
        with pytest.raises(ValueError, match='Switch that off with eval'):
            MemoryFree(InvertibleSequential(module)).inverse(module(x))
        x_hat, info = module.eval().inverse(module(x))
    assert info.converged.all() and (max_token_norm(x_hat - x) <= info.error_bound.clamp(min=1e-5)).all()


COUPLINGS = {
    'additive': lambda: AdditiveCoupling(8, net(8)),
    'affine': lambda: AffineCoupling(8, net(8, 2)),
    'grid': lambda: GridCoupling(8, net(8)),
    'attention': lambda: CouplingAttention2d(8, num_heads=2, position='learned', position_size=3),
}


@pytest.mark.parametrize('stored', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', COUPLINGS)
def test_couplings_with_parameters_in_half_precision(name, dtype, stored):
    """Forward, inverse and recovered gradients; the sub-network runs in its own precision on either way."""
    torch.manual_seed(15)
    coupling = COUPLINGS[name]()
    coupling = coupling.half() if dtype == torch.float16 else coupling.bfloat16()
    x = torch.randn(2, 8, 6, 5).to(stored).requires_grad_()
    y = coupling(x)
    assert y.dtype == (torch.float32 if name == 'attention' else stored)
    with torch.no_grad():
        x_hat, info = coupling.inverse(y)
    assert x_hat.dtype == torch.float32 and info.converged.all() and info.error_bound.isfinite().all()
    # What passes was not rounded further, so the sub-network sees what it saw: the error is that of the sum as stored.
    assert (max_token_norm(x_hat - x.detach().float()) <= info.error_bound).all()
    allowed = torch.finfo(y.dtype).eps * max_token_norm(y.float())
    if name == 'attention':  # as steep as it is around the features
        allowed = coupling.inverse_error(x_hat, allowed)
    assert (info.error_bound <= 100 * allowed).all()
    wide = x.detach().float().requires_grad_()
    plain = gradients(coupling, wide)
    for name, gradient in gradients(MemoryFree(coupling), wide).items():
        torch.testing.assert_close(
            gradient, plain[name], rtol=1e-3, atol=1e-2 * float(plain[name].abs().max()), msg=name
        )


@pytest.mark.parametrize('fused', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_training_ends_where_plain_backpropagation_ends(fused):
    """30 steps, evaluations without gradients between them: the same losses to the accuracy of the inverse."""
    torch.manual_seed(16)
    start = InvertibleSequential(
        CertifiedAttention2d(6, num_heads=3, sharpness='learned'),
        OrthogonalConv1x1(6),
        ConditionalAttention2d(6, reduction=1),
        OrthogonalConv1x1(6),
        CouplingAttention2d(6, reduction=1),
    ).double()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    target = x.roll(1, 3) + 0.5
    losses = []
    for module in (copy.deepcopy(start), MemoryFree(copy.deepcopy(start))):
        optimiser = torch.optim.AdamW(module.parameters(), lr=6e-3, fused=fused)
        course = []
        for step in range(30):
            optimiser.zero_grad()
            loss = (module.train()(x) - target).square().mean()
            loss.backward()
            optimiser.step()
            course.append(loss.detach())
            if step % 7 == 0:
                with torch.no_grad():
                    course.append((module.eval()(x) - target).square().mean())
        losses.append(torch.stack(course))
    assert losses[0][-1] < 0.7 * losses[0][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-7, atol=0)


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
    # were the model the last owner of the group, its destructor would hold the GIL and wait for a thread that wants it
    del model
    gc.collect()
    dist.destroy_process_group()


def test_distributed_gradients_and_data_dependent_start(tmp_path):
    """Two processes: the start is that of the whole batch, the gradient the mean of the shares' gradients."""
    in_two_processes(_distributed_worker, str(tmp_path))
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


def evaluations_of(module: nn.Module, x: Tensor, monkeypatch) -> list[int]:
    """What the solver takes for each layer on the way back."""
    taken = []

    def counting(*args, **options):
        result = solve_fixed_point(*args, **options)
        taken.append(int(result.iterations.max()))
        return result

    monkeypatch.setattr(solve, 'solve_fixed_point', counting)
    gradients(module, x)
    monkeypatch.undo()
    return taken


@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d])
def test_the_way_back_begins_at_the_mean(form, monkeypatch):
    torch.manual_seed(0)
    stack = InvertibleSequential(*(form(16) for _ in range(4)))
    x = torch.randn(2, 16, 12, 12)
    stack.train()(x)
    assert max(evaluations_of(MemoryFree(stack), x, monkeypatch)) <= 4
    y = stack(x).detach()
    for layer in reversed(stack):
        without = layer.recover_input(y, 1e-6, 100)
        mean = without.mean((2, 3), keepdim=True)
        torch.testing.assert_close(layer.recover_input(y, 1e-6, 100, mean=mean), without, rtol=0, atol=1e-5)
        # a wrong one costs evaluations and nothing else
        torch.testing.assert_close(layer.recover_input(y, 1e-6, 100, mean=mean + 1), without, rtol=0, atol=1e-5)
        y = without


@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d, InvChannelAttention, InvConvResidual])
def test_gradients_to_the_accuracy_that_is_stated(form):
    """1e-5 of the whole gradient, also where the inverse is asked for no more than 1e-6."""
    torch.manual_seed(1)
    stack = InvertibleSequential(*(form(8) for _ in range(6))).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    stack.train()(x)
    wanted = torch.cat([g.flatten() for g in gradients(stack, x).values()])
    got = torch.cat([g.flatten() for g in gradients(MemoryFree(stack, tol=1e-6), x).values()])
    assert 0 < (got - wanted).norm() < 1e-5 * wanted.norm()
