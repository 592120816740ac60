"""Couplings with recovered activations: sub-networks that draw random numbers or work in half precision."""

import pytest
import torch
import torch.nn.functional as F
from helpers.block_cases import net
from helpers.memory_free_cases import gradients
from torch import nn

from mmseg_invattn.layers import (
    AdditiveCoupling,
    AffineCoupling,
    CouplingAttention2d,
    GridCoupling,
    InvertibleSequential,
    MemoryFree,
    Squeeze,
    ToGrid,
)
from mmseg_invattn.ops import max_token_norm


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
