"""Invertible position-only attention: the shared contract, its certificate, its start from a convolution."""

import pytest
import torch
from helpers.tiny_segmentor import build_segmentor
from torch import nn

from mmseg_invattn.layers import InvRelativeAttention2d
from mmseg_invattn.layers.exact_norms import jacobian_norm
from mmseg_invattn.layers.testing import check_inverse, check_layer
from mmseg_invattn.ops import max_token_norm

KINDS = {
    'isotropic': dict(),
    'axis': dict(covariance='axis', padding=(1, 2)),
    'full': dict(covariance='full'),
    'learned': dict(encoding='learned_2d', position_size=4, position_channels=3),
}


def build(kind: str, channels: int = 3, **more) -> InvRelativeAttention2d:
    torch.manual_seed(0)
    block = InvRelativeAttention2d(channels, 3, **KINDS[kind], **more).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return block


@pytest.mark.parametrize('kind', KINDS)
def test_contract(kind):
    block = build(kind)
    check_layer(block, torch.randn(2, 3, 2, 4, dtype=torch.float64) * 3 + 1)


@pytest.mark.parametrize('scale', [0.01, 1.0, 30.0])
@pytest.mark.parametrize('kind', KINDS)
def test_certificate_is_never_violated(kind, scale):
    block = build(kind)
    with torch.no_grad():
        block.weight.mul_(scale)
    weights = block.for_size(block.weights(), (4, 3))
    measured = jacobian_norm(lambda x: block.branch(x, weights), torch.randn(1, 3, 4, 3, dtype=torch.float64))
    assert 0 < measured <= block.lipschitz_bound() <= 0.9 * (1 + 1e-9)
    if scale == 0.01:  # small weights stay as they are
        assert torch.equal(weights.weight, block.weight)


def test_certificate_is_attained():
    """Heads that all turn the channels alike."""
    block = build('isotropic')
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    with torch.no_grad():
        block.weight.copy_(rotation.expand(3, 3, 3))
    weights = block.for_size(block.weights(), (3, 3))
    measured = jacobian_norm(lambda x: block.branch(x, weights), torch.randn(1, 3, 3, 3, dtype=torch.float64))
    assert 0.99 * 0.9 <= measured <= block.lipschitz_bound()


def test_any_size():
    block = build('learned').float()
    for size in ((1, 1), (1, 9), (16, 24)):
        check_inverse(block, torch.randn(2, 3, *size))


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('groups', [1, 2])
def test_starts_as_a_convolution_and_inverts_it(whole, groups):
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
    with torch.no_grad():
        conv.weight.mul_(0.05)
        if whole:
            nn.init.dirac_(centre := torch.zeros_like(conv.weight), groups)
            conv.weight.add_(centre)
        x = torch.randn(2, 4, 9, 7)
        block = InvRelativeAttention2d.from_conv2d(conv, whole=whole)
        y = block(x)
        assert (y - (conv(x) if whole else x + conv(x))).abs().max() <= 1e-5
    x_hat, info = block.inverse(y)
    assert info.converged.all() and (max_token_norm(x_hat - x) <= info.error_bound).all()
    assert info.error_bound.max() < 1e-4


def test_convolution_that_is_too_strong_is_refused_or_scaled():
    torch.manual_seed(2)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match='norms of the taps add up to .*, above contraction=0.9.*Multiply .* by 0.'):
        InvRelativeAttention2d.from_conv2d(conv)
    block = InvRelativeAttention2d.from_conv2d(conv, rescale=True)
    assert block.lipschitz_bound() == pytest.approx(0.9, rel=1e-3)
    x = torch.randn(1, 4, 6, 6)
    branch, wanted = block(x) - x - block.bias[:, None, None], conv(x) - conv.bias[:, None, None]
    ratio = float((branch * wanted).sum() / wanted.square().sum())
    assert 0 < ratio < 1 and (branch - ratio * wanted).abs().max() <= 1e-5


@pytest.mark.parametrize('conv', [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, stride=2)])
def test_convolution_that_changes_the_shape_is_refused(conv):
    with pytest.raises(ValueError, match='as many output as input channels'):
        InvRelativeAttention2d.from_conv2d(conv)


def test_in_a_head():
    """Where any attention block stands: it trains, and the head inverts it."""
    torch.manual_seed(3)
    model = build_segmentor(dict(type='InvRelativeAttention2d', num_heads=3, contraction=0.8))
    block = model.decode_head.attention
    assert isinstance(block, InvRelativeAttention2d) and block.channels == 8
    features = model.extract_feat(torch.randn(2, 3, 16, 16))
    model.decode_head(features).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in block.parameters())
    found = model.decode_head.invert_attention([f.detach() for f in features])
    assert found.info.converged.all()
    assert (max_token_norm(found.recovered - found.seen) <= found.info.error_bound).all()


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(contraction=1.0), r'contraction=1.0 is outside \(0, 1\)'),
        (dict(num_heads=0), 'num_heads=0'),
        (dict(encoding='content'), "encoding='content' is unknown"),
        (dict(position_channels=4), "position_channels=4 has no effect with encoding='quadratic'"),
        (dict(encoding='learned_2d', covariance='full'), "covariance='full' has no effect with encoding='learned_2d'"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        InvRelativeAttention2d(4, **arguments)
    with pytest.raises(ValueError, match='C = 4'):
        InvRelativeAttention2d(4).inverse(torch.zeros(1, 3, 4, 4))
