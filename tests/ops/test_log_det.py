"""Log-determinants of residual maps: series, roulette, exact, and their gradients."""

import math

import pytest
import torch

from mmseg_invattn.layers import CertifiedAttention2d, InvConvResidual
from mmseg_invattn.ops import (
    Roulette,
    branch_and_log_abs_det,
    plain_operators_wanted,
    truncation_bound,
    twice_differentiable,
)

SEED = 0


def attention(channels: int = 4, contraction: float = 0.9) -> CertifiedAttention2d:
    torch.manual_seed(SEED)
    block = CertifiedAttention2d(channels, reduction=1, num_heads=2, sharpness=3.0, contraction=contraction).double()
    block.train()(torch.randn(4, channels, 3, 3, dtype=torch.float64))
    return block


def expanding_attention() -> CertifiedAttention2d:
    """Output matrices of identities: the traces do not cancel, so that the determinant is far from 1."""
    block = attention()
    with torch.no_grad():
        for weight in (block.value.weight, block.out.weight):
            weight.copy_(torch.eye(*weight.shape[1:]).expand_as(weight))
    return block


def strong_linear(slope: float = 0.9) -> InvConvResidual:
    """A 1x1 convolution at its bound with the spectrum of all signs."""
    torch.manual_seed(SEED)
    block = InvConvResidual(3, kernel_sizes=(1,), contraction=slope).double()
    with torch.no_grad():
        block.convs[0].weight.copy_((torch.linalg.qr(torch.randn(3, 3))[0] * 2)[:, :, None, None])
    return block


@pytest.mark.parametrize(
    'build, n_terms',
    [
        pytest.param(expanding_attention, 'roulette', marks=pytest.mark.slow),
        (strong_linear, 'roulette'),
        pytest.param(strong_linear, Roulette(exact_terms=1, keep=0.9), marks=pytest.mark.slow),
        (strong_linear, Roulette(exact_terms=0, keep=0.85)),
    ],
)
def test_roulette_has_no_bias(build, n_terms):
    """The mean over independent draws lies within four standard errors of the exact value."""
    block = build()
    channels = 4 if build is expanding_attention else 3
    x = torch.randn(1, channels, 2, 2, dtype=torch.float64)
    exact = block.log_abs_det(x, n_terms='exact').item()
    torch.manual_seed(1)
    with torch.no_grad():
        # the number of terms is drawn once for a call, the probes once for a sample
        means = torch.stack([block.log_abs_det(x.expand(64, -1, -1, -1), n_terms=n_terms).mean() for _ in range(300)])
    error = means.std() / len(means) ** 0.5
    assert abs(means.mean() - exact) <= 4 * error
    assert error < 0.1 * abs(exact)  # the interval is not vacuous


def test_roulette_gradient_has_no_bias():
    block = strong_linear(0.8)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    weight = block.convs[0].weight
    exact = torch.autograd.grad(block.log_abs_det(x, n_terms='exact').sum(), weight)[0]
    torch.manual_seed(1)
    draws = torch.stack(
        [
            torch.autograd.grad(block.log_abs_det(x.expand(32, -1, -1, -1), n_terms='roulette').mean(), weight)[0]
            for _ in range(300)
        ]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 4 * error).all()
    assert error.max() < 0.1 * exact.abs().max()


def test_truncated_series_would_be_biased_there():
    """What roulette removes: the same comparison for two terms fails by far more than its own scatter."""
    block = strong_linear()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    exact = block.log_abs_det(x, n_terms='exact').item()
    torch.manual_seed(1)
    with torch.no_grad():
        values = block.log_abs_det(x.expand(20000, -1, -1, -1), n_terms=2)
    assert abs(values.mean() - exact) > 20 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize('slope', [-0.9, -0.5, 0.3, 0.9])
@pytest.mark.parametrize('n_terms', [1, 2, 5, 10, 40])
def test_truncated_series_and_its_bound(slope, n_terms):
    """One dimension has no scatter: the estimate is the series, its gradient the derivative of the series."""
    x = torch.randn(4, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
    g, value = branch_and_log_abs_det(lambda x: slope * x.sin(), x, n_terms)
    assert torch.equal(g, slope * x.sin())
    j = (slope * x.cos()).flatten()
    series = sum((-1) ** (k + 1) / k * j**k for k in range(1, n_terms + 1))
    torch.testing.assert_close(value, series)
    gradients = [torch.autograd.grad(total.sum(), (x, slope)) for total in (value, series)]
    torch.testing.assert_close(*gradients)
    bound = truncation_bound(1, slope.abs(), n_terms)
    assert ((value - torch.log1p(j)).abs() <= bound + 1e-15).all()  # float64 rounds


@pytest.mark.parametrize('n_terms', [1, 3, 10])
def test_truncation_bound_holds_in_expectation(n_terms):
    """The traces in place of their estimates, for a Jacobian at the bound (all eigenvalues -L: the worst case)."""
    dim, bound = 12, 0.9
    for jacobian in (-bound * torch.eye(dim), bound * torch.linalg.qr(torch.randn(dim, dim))[0]):
        jacobian = jacobian.double()
        series, power = 0.0, torch.eye(dim).double()
        for k in range(1, n_terms + 1):
            power = power @ jacobian
            series += (-1) ** (k + 1) / k * float(power.trace())
        exact = float(torch.linalg.slogdet(torch.eye(dim).double() + jacobian)[1])
        assert abs(series - exact) <= truncation_bound(dim, torch.tensor(bound, dtype=torch.float64), n_terms) * (
            1 + 1e-9
        )
    worst = dim * (-math.log(1 - bound) - sum(bound**k / k for k in range(1, n_terms + 1)))
    assert float(truncation_bound(dim, torch.tensor(bound, dtype=torch.float64), n_terms)) == pytest.approx(
        worst, rel=1e-9
    )


def test_layer_reports_its_truncation_bound():
    block = attention()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    exact = block.log_abs_det(x, n_terms='exact')
    bound = block.log_abs_det_error_bound(x, n_terms=4)
    assert 0 < bound < truncation_bound(16, torch.tensor(block.lipschitz_bound()), 4)  # the local bound and the rank
    assert block.log_abs_det_error_bound(x, 'roulette') == block.log_abs_det_error_bound(x, 'exact') == 0
    with torch.no_grad():
        values = block.log_abs_det(x.expand(4000, -1, -1, -1), n_terms=4)
    assert abs(values.mean() - exact) <= bound + 4 * values.std() / len(values) ** 0.5


def test_more_probes_scatter_less():
    block = attention()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64).expand(500, -1, -1, -1)
    with torch.no_grad():
        one, many = (block.log_abs_det(x, n_samples=n).std() for n in (1, 16))
    assert 0.2 * one < many < 0.3 * one  # 1 / sqrt(16)


@pytest.mark.parametrize('n_terms', [2, 8])
def test_gradient_of_the_series_in_expectation(n_terms):
    """The mean of the gradient over probes is the derivative of the truncated series of exact traces."""
    torch.manual_seed(2)
    weight = (torch.randn(3, 3, dtype=torch.float64) * 0.3).requires_grad_()
    x = torch.randn(1, 3, 1, 2, dtype=torch.float64)

    def branch(x):
        return torch.einsum('oc,bchw->bohw', weight, x).tanh()

    jacobian = torch.autograd.functional.jacobian(branch, x, create_graph=True).reshape(6, 6)
    power, series = torch.eye(6, dtype=torch.float64), 0
    for k in range(1, n_terms + 1):
        power = power @ jacobian
        series = series + (-1) ** (k + 1) / k * power.trace()
    want = torch.autograd.grad(series, weight)[0]
    draws = torch.stack(
        [
            torch.autograd.grad(branch_and_log_abs_det(branch, x.expand(200, -1, -1, -1), n_terms)[1].mean(), weight)[0]
            for _ in range(100)
        ]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - want).abs() <= 4 * error).all() and error.max() < 0.05 * want.abs().max()


def saved_bytes(function) -> int:
    """What autograd keeps for the backward pass of ``function()``."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        kept.append(x)
        return x

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function()
    assert result.requires_grad
    return sum(storages.values())


def test_memory_of_the_gradient_does_not_depend_on_the_terms():
    block = InvConvResidual(8)
    x = torch.randn(2, 8, 16, 16)
    few, many = (saved_bytes(lambda n=n: block.log_abs_det(x, n_terms=n)) for n in (2, 40))
    assert few > 0 and many == few


def test_fused_kernels_have_no_second_derivative_and_the_context_gives_one():
    block = attention()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)

    with pytest.raises(RuntimeError, match='has no second derivative: run the forward pass inside'):
        penalty()
    assert not plain_operators_wanted()
    with twice_differentiable():
        assert plain_operators_wanted()
        with twice_differentiable(False):  # leaves it to the surroundings
            assert plain_operators_wanted()
        penalty()
    assert not plain_operators_wanted()


@pytest.mark.parametrize('n_terms', [3, 'roulette', 'exact'])
def test_without_gradients(n_terms):
    block = attention().float()
    x = torch.randn(2, 4, 2, 2, requires_grad=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value = block.log_abs_det(x, n_terms)
            assert not value.requires_grad and value.shape == (2,) and value.isfinite().all()
            assert block.log_abs_det(x * 2, n_terms).shape == (2,)  # a tensor made in inference mode
    assert x.grad is None and all(p.grad is None for p in block.parameters())


def test_half_precision_and_autocast_are_computed_in_float32():
    block = attention().float()
    x = torch.randn(2, 4, 2, 2)
    want = block.log_abs_det(x.bfloat16().float(), 'exact')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = block.log_abs_det(x.bfloat16(), 'exact')
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(n_terms=0), 'n_terms=0 is neither a positive integer nor'),
        (dict(n_terms='all'), "n_terms='all' is neither"),
        (dict(n_terms=2.5), 'n_terms=2.5 is neither'),
        (dict(n_terms=True), 'n_terms=True is neither'),
        (dict(n_terms=Roulette(keep=1.0)), 'keep between 0 and 1'),
        (dict(n_terms=Roulette(exact_terms=-1)), 'exact_terms must be at least 0'),
        (dict(n_samples=0), 'n_samples=0 is not a positive integer'),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        InvConvResidual(2).log_abs_det(torch.randn(1, 2, 2, 2), **arguments)


def test_exact_form_is_for_small_inputs():
    with pytest.raises(ValueError, match='a feature map with 8192 values per sample'):
        InvConvResidual(2).log_abs_det(torch.zeros(1, 2, 64, 64), n_terms='exact')


@pytest.mark.parametrize('n_terms', [3, 'roulette', 'exact'])
@pytest.mark.parametrize('grad', [True, False])
def test_one_evaluation_gives_the_branch_and_the_determinant(n_terms, grad):
    torch.manual_seed(4)
    weight = (torch.randn(3, 3) * 0.2).requires_grad_()
    x, calls = torch.randn(2, 3, 1, 2, requires_grad=True), []

    def branch(x):
        calls.append(torch.is_inference(x))
        return torch.einsum('oc,bchw->bohw', weight, x).tanh()

    with torch.set_grad_enabled(grad):
        g, log_det = branch_and_log_abs_det(branch, x, n_terms, n_samples=3)
    assert calls == [False]
    torch.testing.assert_close(g, branch(x), rtol=0, atol=0)
    assert g.requires_grad == log_det.requires_grad == grad
    if grad:  # both are differentiable together
        together = torch.autograd.grad(g.square().sum() + 0 * log_det.sum(), (x, weight), retain_graph=True)
        torch.testing.assert_close(together, torch.autograd.grad(branch(x).square().sum(), (x, weight)))
        assert all(d.abs().max() > 0 for d in torch.autograd.grad(log_det.sum(), (x, weight)))
