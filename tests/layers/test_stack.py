"""Attention blocks in a row: stacks, channel attention, dual attention, and how errors compose."""

import pytest
import torch
from torch import nn

from mmseg_invattn.layers import (
    FORMS,
    CertifiedAttention2d,
    InvChannelAttention,
    InvertibleSequential,
    NonLocalAttention2d,
    OrthogonalConv1x1,
    composed_error,
)
from mmseg_invattn.layers.exact_norms import jacobian_norm
from mmseg_invattn.layers.testing import check_inverse, check_layer
from mmseg_invattn.ops import max_channel_norm, max_token_norm


def stack(channels: int, blocks: int, form: str = 'certified', **options) -> InvertibleSequential:
    """Blocks with orthogonal 1x1 convolutions between them."""
    layers = [FORMS[form](channels, **options)]
    for _ in range(blocks - 1):
        layers += [OrthogonalConv1x1(channels), FORMS[form](channels, **options)]
    return InvertibleSequential(*layers)


def dual(channels: int, channel: dict | None = None, position: dict | None = None) -> InvertibleSequential:
    """DANet's two attentions, one after the other."""
    return InvertibleSequential(
        InvChannelAttention(channels, **channel or {}), CertifiedAttention2d(channels, **position or {})
    )


@pytest.mark.parametrize(
    'layer',
    [
        pytest.param(lambda: stack(8, 3, num_heads=2, contraction=0.5), marks=pytest.mark.slow),
        lambda: stack(8, 2, 'conditional', mode='l2', contraction=0.5),
        lambda: stack(8, 1, mode='concatenation'),
        lambda: InvChannelAttention(8),
        lambda: InvChannelAttention(8, sharpness='learned', similar=True),
        lambda: dual(8, dict(sharpness=1.0), dict(mode='gaussian')),
    ],
    ids=['stack', 'conditional stack', 'stack of one', 'channel', 'channel learned', 'dual'],
)
def test_contract(layer):
    torch.manual_seed(0)
    layer = layer().double()
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64) * 2 + 1
    layer.train()(x)
    check_layer(layer, x)


@pytest.mark.parametrize(
    'block', [dict(), dict(num_heads=2), dict(form='conditional', sharpness=3.0), dict(form='coupling')], ids=str
)
def test_composed_bound_holds_however_early_the_solver_stops(block):
    torch.manual_seed(1)
    layers = stack(8, 3, **block).double()
    x = torch.randn(4, 8, 4, 4, dtype=torch.float64) * torch.tensor([0.1, 1, 10, 100]).view(-1, 1, 1, 1)
    y = layers(x).detach()
    for max_iter in (1, 2, 3, 100):
        x_hat, info = layers.inverse(y, tol=1e-12, max_iter=max_iter, strict=False)
        error = max_token_norm(x_hat - x)
        assert (error <= info.error_bound).all()
        assert (info.residual <= max_token_norm(y - layers(x_hat)) * (1 + 1e-6) + 1e-12).all()
        if max_iter < 100 and block.get('form') != 'coupling':
            assert (info.iterations == 3 * max_iter).all() and not info.converged.any()
    assert info.converged.all() and (error < 1e-9 * max_token_norm(x)).all()


def test_rule_of_composed_errors_is_attained():
    """A branch with slope -L in one direction, where the inverse amplifies errors by 1 / (1 - L)."""
    block = CertifiedAttention2d(4, reduction=1, bias=False, contraction=0.8).double()
    with torch.no_grad():
        block.value.weight.copy_(torch.eye(4))
        block.out.weight.copy_(-torch.eye(4))
    # N = 1: attention is the identity, g(x) = -gain B(x), with slope -gain at 0.
    slope = float(block.local_lipschitz(torch.zeros(1, 4, 1, 1, dtype=torch.float64)))
    error = torch.tensor([1e-4], dtype=torch.float64)
    y = torch.zeros(2, 4, 1, 1, dtype=torch.float64)
    y[1, 0] = error
    x, info = block.inverse(y, tol=1e-14)
    moved = max_token_norm(x[1:] - x[:1])
    assert moved.item() == pytest.approx(error.item() / (1 - slope), rel=1e-3)
    one = info.first(1)
    allowed = composed_error(block, x[:1], one, error)
    assert (moved <= allowed).all()
    expected = info.error_bound[:1] + error / (1 - block.lipschitz_bound())
    torch.testing.assert_close(allowed, expected)


def test_composed_error_of_a_residual_layer_is_the_formula():
    """``(|r| + e) / (1 - L)`` for inexact y and an inverse stopped early, against the true error."""
    torch.manual_seed(2)
    block = CertifiedAttention2d(8, sharpness=4.0).double()
    x = torch.randn(5, 8, 4, 4, dtype=torch.float64)
    y = block(x).detach()
    noise = torch.randn_like(y) * 0.01
    x_hat, info = block.inverse(y + noise, tol=1e-12, max_iter=2, strict=False)
    bound = composed_error(block, x_hat, info, max_token_norm(noise))
    assert (max_token_norm(x_hat - x) <= bound).all()
    error = max_token_norm(noise)
    formula = (info.residual + info.rounding) / (1 - info.lipschitz) + error / (1 - block.lipschitz_bound())
    torch.testing.assert_close(bound, formula, rtol=1e-9, atol=1e-12)
    # inside a sequence the error is known before the local bound is taken
    _, together = block.inverse(y + noise, tol=1e-12, max_iter=2, strict=False, error=error)
    assert (max_token_norm(x_hat - x) <= together.error_bound).all() and (together.error_bound < bound).all()


def test_half_precision_between_blocks_is_in_the_bound():
    torch.manual_seed(3)
    layers = stack(8, 3)
    x = torch.randn(2, 8, 4, 4).bfloat16()
    y = layers(x)
    assert y.dtype == torch.bfloat16
    x_hat, info = layers.inverse(y)
    assert x_hat.dtype == torch.float32
    assert (max_token_norm(x_hat - x.float()) <= info.error_bound).all()


def test_stack_of_the_paper_reports_no_bound():
    torch.manual_seed(4)
    layers = stack(8, 2, 'paper', gamma='scalar')
    x = torch.randn(1, 8, 3, 3)
    x_hat, info = layers.inverse(layers(x))
    assert layers.lipschitz_bound() is None and info.error_bound.isnan().all()
    assert (x_hat - x).abs().max() < 1e-4


def test_channel_attention_is_danet_on_the_ball():
    torch.manual_seed(5)
    layer = InvChannelAttention(6, sharpness=1.5).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    layer.train()(x)
    centred = (x - layer.norm.centre[0][:, None, None]) / layer.norm().scale[0]
    b = centred.flatten(2) * (6 / 20) ** 0.5
    b = b / (1 + b.square().sum(-1, keepdim=True)).sqrt()
    energy = 1.5 * b @ b.mT
    attention = (energy.amax(-1, keepdim=True) - energy).softmax(-1)  # as DANet computes it
    gain = 0.9 / (1.5 + (1 + 1.5**2) ** 0.5) * torch.tanh(layer.raw)
    expected = x + ((attention @ b) * gain * layer.norm().scale[0] * (20 / 6) ** 0.5).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize('scale', [0.1, 1.0, 30.0])
@pytest.mark.parametrize('similar', [False, True])
def test_certificate_of_channel_attention(similar, scale):
    torch.manual_seed(6)
    layer = InvChannelAttention(5, similar=similar, sharpness=2.0).double()
    nn.init.constant_(layer.raw, 20.0)
    x = torch.randn(1, 5, 3, 4, dtype=torch.float64) * scale
    weights = layer.weights()
    # Channels as tokens: exchange channels and pixels for the exact norm, which is then sqrt(N) times that of RMS.
    turned = x.flatten(2).mT[..., None]
    measured = jacobian_norm(
        lambda t: layer.branch(t[..., 0].mT.reshape(x.shape), weights).flatten(2).mT[..., None], turned
    )
    assert 0 < measured <= layer.lipschitz_bound() <= 0.9 * (1 + 1e-9)
    assert 0.7 * measured <= float(layer.local_lipschitz(x)) <= measured * (1 + 1e-9)


@pytest.mark.parametrize('size', [(2, 2), (16, 16), (64, 64)])
def test_channel_attention_does_not_depend_on_the_number_of_pixels(size):
    torch.manual_seed(7)
    layer = InvChannelAttention(16, sharpness=4.0)
    x = torch.randn(2, 16, *size)
    layer.train()(x)
    check_inverse(layer, x)
    _, info = layer.inverse(layer(x))
    assert info.iterations.max() <= 8 and layer.lipschitz_bound() <= 0.9


def test_dual_attention_bounds_its_error_in_the_channel_norm():
    torch.manual_seed(8)
    layer = dual(8).double()
    x = torch.randn(3, 8, 4, 6, dtype=torch.float64) * 3
    y = layer(x).detach()
    for max_iter in (1, 2, 100):
        x_hat, info = layer.inverse(y, tol=1e-12, max_iter=max_iter, strict=False)
        assert (max_channel_norm(x_hat - x) <= info.error_bound).all()
    assert info.converged.all() and (max_channel_norm(x) <= max_token_norm(x)).all()


def test_log_determinant_of_a_stack_is_the_sum():
    torch.manual_seed(9)
    layers = stack(4, 2, 'conditional', contraction=0.5, reduction=1).double()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(lambda t: layers(t[None])[0], x[0]).reshape(16, 16).slogdet()[1]
    torch.testing.assert_close(layers.log_abs_det(x, n_terms=60, n_samples=16)[0], exact, rtol=1e-8, atol=1e-9)


def test_channel_attention_behind_other_layers_has_a_bound():
    """Its error is in the norm of the channels: the layers that are inverted after it take it per pixel."""
    torch.manual_seed(10)
    layers = CertifiedAttention2d(8, contraction=0.5), InvChannelAttention(8, contraction=0.5), CertifiedAttention2d(8)
    sequence = InvertibleSequential(*layers).double()
    x = torch.randn(3, 8, 3, 4, dtype=torch.float64)
    y = sequence(x).detach()
    for max_iter in (1, 2, 100):
        x_hat, info = sequence.inverse(y, tol=1e-12, max_iter=max_iter, strict=False)
        assert (max_token_norm(x_hat - x) <= info.error_bound).all()
    assert info.converged.all() and info.error_bound.max() < 1e-9
    noise = torch.randn_like(y) * 1e-3
    moved, _ = sequence.inverse(y + noise, tol=1e-12)
    assert (max_token_norm(moved - x) <= sequence.inverse_error(moved, max_token_norm(noise))).all()


@pytest.mark.parametrize(
    'build, words',
    [
        (
            lambda: InvertibleSequential(CertifiedAttention2d(8), NonLocalAttention2d(8)),
            'layer 1 of InvertibleSequential is a NonLocalAttention2d, which is not invertible',
        ),
        (lambda: InvChannelAttention(0), 'in_channels=0 is not a positive integer'),
        (lambda: InvChannelAttention(8, contraction=1.5), r'contraction=1.5 is outside \(0, 1\)'),
        (lambda: InvChannelAttention(8, sharpness='log_n'), "sharpness='log_n' depends on the number of pixels"),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(ValueError, match=words):
        build()
