"""``precision='autocast'``: the branch of the forward pass follows autocast; certificate, stream and inverse do not."""

import copy

import pytest
import torch
from helpers.precision_cases import FORMS, pair, under_autocast
from torch import Tensor, nn

from mmseg_invattn.layers import (
    AdditiveCoupling,
    CertifiedAttention2d,
    CouplingAttention2d,
    InvertibleSequential,
    MemoryFree,
    PaperAttention2d,
)

DTYPES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('form', (*FORMS, PaperAttention2d))
@torch.no_grad()
def test_branch_follows_autocast_and_the_stream_does_not(form, dtype):
    exact, cast, x = pair(form)
    y = under_autocast(cast, x, dtype)
    assert y.dtype == torch.float32
    assert torch.equal(cast(x), exact(x)) and torch.equal(under_autocast(exact, x, dtype), exact(x))
    off, branch = (y - exact(x)).norm(), (exact(x) - x).norm()
    eps = torch.finfo(dtype).eps
    assert 1e-2 * eps * branch < off < 4 * eps * branch  # rounded in that dtype, and no worse


@pytest.mark.parametrize('form', FORMS)
@torch.no_grad()
def test_certificate_and_inverse_are_those_of_the_map(form):
    exact, cast, x = pair(form)
    y = exact(x)
    with torch.autocast('cpu', torch.bfloat16):
        assert cast.lipschitz_bound() == exact.lipschitz_bound()
        x_under, under = cast.inverse(y, strict=False)
    (x_exact, exact_info), (x_cast, info) = exact.inverse(y), cast.inverse(y, strict=False)
    assert torch.equal(x_exact, x_cast) and (info.error_bound > exact_info.error_bound).all()
    if form is not CouplingAttention2d:  # which does back what it did
        assert torch.equal(x_under, x_cast) and torch.equal(under.error_bound, info.error_bound)
    assert (exact_info.precision, info.precision) == ('float32', 'autocast')
    # autocast does not touch float64
    assert cast.double().inverse(y.double())[1].precision == 'float64'


@pytest.mark.parametrize('dtype', DTYPES)
@torch.no_grad()
def test_a_coupling_takes_back_what_it_added_under_the_same_autocast(dtype):
    _, cast, x = pair(CouplingAttention2d)
    y = under_autocast(cast, x, dtype)
    with torch.autocast('cpu', dtype):
        same = cast.inverse(y, strict=False)[0]
    other, info = cast.inverse(y, strict=False)
    with torch.autocast('cpu', dtype):
        assert torch.equal(cast.forward_and_log_abs_det(x)[0], y)
    assert (same - x).norm() < 1e-6 * x.norm() < 1e-2 * (other - x).norm()
    assert (cast.error_norm(other.double() - x.double()) <= info.error_bound).all()


@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation', 'l2'])
@torch.no_grad()
def test_bound_of_a_bfloat16_branch_says_something(mode):
    """Within a hundredth of the features, where bfloat16 itself has steps of a hundredth of the branch."""
    _, cast, x = pair(CertifiedAttention2d, mode=mode)
    x_hat, info = cast.inverse(under_autocast(cast, x))
    error = cast.error_norm(x_hat.double() - x.double())
    assert (error <= info.error_bound).all() and (info.error_bound <= 0.03 * cast.error_norm(x)).all()


def test_a_sequence_names_the_coarsest_precision():
    torch.manual_seed(0)
    layers = [CertifiedAttention2d(8, precision=precision) for precision in ('float32', 'autocast', 'float32')]
    x = torch.randn(1, 8, 4, 4)
    assert InvertibleSequential(*layers).inverse(x, strict=False)[1].precision == 'autocast'
    assert InvertibleSequential(*layers[::2]).inverse(x, strict=False)[1].precision == 'float32'


@pytest.mark.parametrize('form', (*FORMS, PaperAttention2d))
def test_an_unknown_precision(form):
    with pytest.raises(ValueError, match="precision='bfloat16' is unknown: choose one of 'float32', 'autocast'"):
        form(8, precision='bfloat16')


def gradients(module: nn.Module, x: Tensor, autocast: bool) -> tuple[Tensor, Tensor]:
    """y, and all gradients as one vector, each in units of its norm."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y = module(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return y.detach(), torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in module.parameters())])


@pytest.mark.parametrize('form', FORMS)
def test_memory_free_gradients_are_those_of_autocast(form):
    """The backward pass runs outside of autocast and evaluates the branch under that of the forward pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    stack = InvertibleSequential(*(form(16, precision='autocast') for _ in range(3)), AdditiveCoupling(16, net))
    x = torch.randn(2, 16, 6, 7)
    stack.train()(x)
    y, wanted = gradients(stack, x, autocast=True)
    y_free, got = gradients(MemoryFree(copy.deepcopy(stack)), x, autocast=True)
    _, exact = gradients(stack, x, autocast=False)
    assert torch.equal(y, y_free)
    assert (exact - wanted).norm() > 1e-4 * exact.norm()  # bfloat16 was there
    if form is CouplingAttention2d:  # the same evaluations, on streams that come back up to the rounding of a sum
        assert (got - wanted).norm() <= 1e-5 * wanted.norm()
    else:  # x comes back from the map, up to what bfloat16 changed in y
        assert (got - wanted).norm() <= 2 * (exact - wanted).norm()


def test_gradients_are_computed_outside_of_autocast_as_always():
    """A layer in float32 between others: what goes back through it is not cast."""
    torch.manual_seed(0)
    stack = InvertibleSequential(CouplingAttention2d(16), CouplingAttention2d(16))
    x = torch.randn(2, 16, 6, 7)
    wanted = gradients(MemoryFree(stack), x, autocast=False)
    for a, b in zip(gradients(MemoryFree(stack), x, autocast=True), wanted, strict=True):
        assert torch.equal(a, b)
