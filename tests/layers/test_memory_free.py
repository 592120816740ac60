"""Backpropagation with recovered activations: gradients, refusals, autocast and compilation."""

import copy

import pytest
import torch
from helpers.memory_free_cases import flow, gradients
from torch import Tensor, nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    MemoryFree,
    NotConvergedError,
    PaperAttention2d,
    Split,
    Squeeze,
)


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
