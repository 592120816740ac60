"""The layers of an invertible U-Net: orthogonal resampling, skip connections, certified layers on a grid, expansion."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_invattn.layers import (
    CertifiedAttention2d,
    ChannelExpansion,
    ConditionalAttention2d,
    GridCoupling,
    GridDownsample,
    GridResidual,
    GridUpsample,
    InvConvResidual,
    InvertibleSequential,
    InvertibleSkip,
    MemoryFree,
    Split,
    ToGrid,
)
from mmseg_invattn.layers.flow.grid import grid_step, is_exact, to_grid
from mmseg_invattn.layers.flow.grid_rotation import Rotation, lifted, product, rounds, shears_of
from mmseg_invattn.layers.testing import (
    check_given_weights,
    check_gradients,
    check_inverse,
    check_layer,
    check_memory_free,
)
from mmseg_invattn.ops import max_token_norm, spectral_norm_bound


def coupling(channels: int, swap: bool = False) -> GridCoupling:
    half, rest = channels // 2, channels - channels // 2
    net = nn.Conv2d(rest if swap else half, half if swap else rest, 3, padding=1)
    bound = float(sum(spectral_norm_bound(tap) for tap in net.weight.detach().flatten(2).unbind(2)))
    return GridCoupling(channels, net, swap, lipschitz=bound)


def trained(layer: nn.Module) -> nn.Module:
    """The layer with other matrices than at the start."""
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, GridDownsample | GridUpsample):
                module.matrix.generator.add_(torch.randn_like(module.matrix.generator))
    return layer


def level(channels: int = 4, inner: nn.Module | None = None) -> InvertibleSkip:
    """One level of a U-Net: half of the channels go across, the others down, through couplings, and up again."""
    half = channels - channels // 2
    deep = [coupling(4 * half), coupling(4 * half, True)] if inner is None else [inner]
    return InvertibleSkip(channels, InvertibleSequential(GridDownsample(half), *deep, GridUpsample(half)))


LAYERS = {
    'down-haar': lambda: InvertibleSequential(ToGrid(), GridDownsample(3)),
    'down-trained': lambda: InvertibleSequential(ToGrid(), trained(GridDownsample(3, 'space_to_depth'))),
    'down-by-4': lambda: InvertibleSequential(ToGrid(), trained(GridDownsample(1, 'space_to_depth', stride=4))),
    'up': lambda: InvertibleSequential(ToGrid(), GridUpsample(1), GridDownsample(1), trained(GridUpsample(1))),
    'skip': lambda: InvertibleSequential(ToGrid(), level(3)),
    'skip-of-a-residual': lambda: InvertibleSkip(3, CertifiedAttention2d(2, reduction=1), across=1),
    'u-net': lambda: InvertibleSequential(
        ToGrid(), coupling(2), trained(level(2, InvertibleSkip(4, coupling(2), across=2))), coupling(2, True)
    ),
}


@pytest.mark.parametrize('name', LAYERS)
def test_contract(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    channels = {'up': 4, 'u-net': 2, 'down-by-4': 1}.get(name, 3)
    check_layer(layer, torch.randn(2, channels, 4 if name == 'down-by-4' else 2, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    'make',
    [
        lambda: GridResidual(CertifiedAttention2d(4, reduction=1)),
        lambda: GridResidual(ConditionalAttention2d(4, reduction=1)),
        lambda: InvertibleSequential(coupling(2), level(2, GridResidual(CertifiedAttention2d(4))), coupling(2, True)),
    ],
)
def test_contract_with_a_remainder(make):
    """All of the contract but for the Jacobian, which the remainder makes rectangular."""
    torch.manual_seed(0)
    layer = make().double()
    net = InvertibleSequential(ToGrid(), layer)
    x = torch.randn(2, 4 if isinstance(layer, GridResidual) else 2, 2, 4, dtype=torch.float64)
    net.train()(x)
    check_inverse(net, x)
    check_inverse(copy.deepcopy(net).float(), x.float())
    check_gradients(net, x)
    check_given_weights(net, x)
    check_memory_free(net, x)
    x = to_grid(x)
    if isinstance(layer, GridResidual):
        assert torch.equal(layer.log_abs_det(x, 'exact'), layer.layer.log_abs_det(x, 'exact'))
        assert torch.equal(sum(layer(x)), layer.layer(x))
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x[:1])
    reference = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1]
    torch.testing.assert_close(layer.log_abs_det(x[:1], 'exact')[0], reference)


@pytest.mark.parametrize('start, stride', [('haar', 2), *(('space_to_depth', r) for r in (2, 3, 4))])
def test_down_is_a_convolution_with_an_orthogonal_kernel(start, stride):
    torch.manual_seed(1)
    r, size = stride, stride**2
    layer = GridDownsample(5, start, stride).double()
    x = to_grid(torch.randn(2, 5, 3 * r, 4 * r, dtype=torch.float64))
    if start == 'space_to_depth':
        assert torch.equal(layer(x), F.pixel_unshuffle(x, r))
    else:
        torch.testing.assert_close(layer(x)[:, ::4], 2 * F.avg_pool2d(x, 2), rtol=0, atol=1e-11)
    kernel = trained(layer).kernel().detach()
    rows = kernel.reshape(5, size, size)
    identity = torch.eye(size, dtype=torch.float64).expand(5, size, size)
    torch.testing.assert_close(rows @ rows.mT, identity, rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, stride=r, groups=5), rtol=0, atol=1e-10)
    up = GridUpsample(5, start, stride).double()
    up.load_state_dict(layer.state_dict())
    assert torch.equal(up(layer(x)), x)
    torch.testing.assert_close(
        up(x := to_grid(torch.randn(1, 5 * size, 3, 3, dtype=torch.float64))),
        F.conv_transpose2d(x, kernel, stride=r, groups=5),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize('size', [2, 4, 5, 9, 16])
def test_every_rotation_is_a_product_of_shears(size):
    """Permutations with signs have angles of 0, 90 and 180 degrees, and columns in which both numbers are 0."""
    torch.manual_seed(2)
    matrices = [torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0] for _ in range(200)]
    for _ in range(50):
        matrices.append(torch.eye(size, dtype=torch.float64)[torch.randperm(size)])
        matrices[-1][::2] *= -1
    matrices = torch.stack([torch.cat([m[:-1], m[-1:] * m.det().round()]) for m in matrices])
    rotation = Rotation(matrices, *shears_of(matrices))
    assert rotation.tangent.abs().max() <= 1 + 1e-12 and rotation.sine.abs().max() <= 1
    for dtype in (torch.float32, torch.float64):
        x = to_grid(torch.randn(2, 250, size, 3, 3).to(dtype) * 30)
        y = lifted(x, rotation)
        assert is_exact(y).all() and torch.equal(lifted(y, rotation, back=True), x)
        torch.testing.assert_close(y, product(x, matrices), rtol=1e-5, atol=5 * len(rounds(size)) * grid_step(dtype))


@pytest.mark.parametrize('scale', [1.0, 20.0])
def test_a_u_net_comes_back_bit_for_bit(scale):
    torch.manual_seed(3)
    net = trained(InvertibleSequential(ToGrid(), coupling(4), level(4, level(8, level(16))), coupling(4, True)))
    x = torch.randn(2, 4, 16, 24) * scale
    with torch.no_grad():
        x_hat, info = net.inverse(net(x))
    assert torch.equal(x_hat, to_grid(x)) and info.converged.all()
    error = max_token_norm(x_hat - x)
    assert (error > 0).all() and (error <= info.error_bound).all()
    assert info.error_bound.max() <= 1.001 * grid_step(torch.float32)


def test_beyond_the_grid_the_bound_says_so():
    torch.manual_seed(4)
    by_4 = GridDownsample(1, 'space_to_depth', stride=4), GridUpsample(1, 'space_to_depth', stride=4)
    for layer, channels in ((GridDownsample(4), 4), (GridUpsample(1), 4), (by_4[0], 1), (by_4[1], 16)):
        trained(layer)
        x = torch.randn(4, channels, 4, 4)
        x[1:] = to_grid(x[1:])
        x[2] *= 3000  # sums on the way leave the range of the grid
        with torch.no_grad():
            y = layer(x)
            y_half = y[3:].half()
            x_hat, info = layer.inverse(y)
            half, info_half = layer.inverse(y_half)
        assert (info.error_bound > 0).tolist() == [True, False, True, False]
        assert (max_token_norm(x_hat - x) <= info.error_bound).all()
        error = max_token_norm(half - x[3:])
        assert 0 < float(error) <= float(info_half.error_bound)


@pytest.mark.parametrize('layer', [CertifiedAttention2d(8), ConditionalAttention2d(8), InvConvResidual(8, 16)])
def test_a_certified_layer_between_couplings_is_exact(layer):
    torch.manual_seed(5)
    net = InvertibleSequential(ToGrid(), coupling(8), GridResidual(layer), coupling(8, True), coupling(8))
    x = torch.randn(3, 8, 6, 6)
    with torch.no_grad():
        y, remainder = net(x)
        x_hat, info = net.inverse((y, remainder))
        assert is_exact(y).all() and (remainder != 0).any() and remainder.abs().max() <= 0.51 * grid_step(x.dtype)
    assert torch.equal(x_hat, to_grid(x)) and info.error_bound.max() <= 1.001 * grid_step(x.dtype) / 2 * 8**0.5
    with torch.no_grad():  # without the remainder the inverse knows that it is not exact
        _, info = net.inverse((y, torch.zeros_like(remainder)), strict=False)
        middle, lost = net[2].inverse((y, torch.zeros_like(remainder)), error=torch.full((3,), 1e-3))
    assert (lost.error_bound > 1e-3).all()


def test_an_error_of_y_is_corrected_up_to_half_a_step():
    torch.manual_seed(6)
    layer = GridResidual(CertifiedAttention2d(8))
    x = to_grid(torch.randn(4, 8, 6, 6) * 100)
    error = torch.tensor([0, 1e-6, 1e-3, torch.nan], dtype=torch.float64)
    with torch.no_grad():
        trunk, remainder = layer(x)
        direction = torch.randn_like(x)
        moved = remainder + direction * (error / max_token_norm(direction))[:, None, None, None].nan_to_num()
        x_hat, info = layer.inverse((trunk, moved.float()), error=error)
    assert info.error_bound[:2].tolist() == [0, 0] and torch.equal(x_hat[:2], x[:2])
    assert info.error_bound[2] >= max_token_norm(x_hat - x)[2] > 0 and info.error_bound[3].isnan()
    with torch.no_grad():  # the grid of float64 is too fine for that
        x_hat, info = layer.inverse(layer(x.double()))
    assert (info.error_bound > 0).all() and (max_token_norm(x_hat - x) <= info.error_bound).all()


def test_memory_free_gradients_are_bitwise_those_of_recovered_activations():
    torch.manual_seed(7)
    net = trained(InvertibleSequential(ToGrid(), coupling(4), level(4, level(8)), coupling(4, True)))
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    wanted = [x, *net.parameters()]
    plain = torch.autograd.grad(net(x).square().sum(), wanted)
    free = torch.autograd.grad(MemoryFree(net)(x).square().sum(), wanted)
    for a, b in zip(plain, free, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def test_expansion():
    torch.manual_seed(8)
    net = InvertibleSequential(ToGrid(), ChannelExpansion(3, 8, nn.Conv2d(3, 5, 3, padding=1)), coupling(8))
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        y = net(x)
        x_hat, info = net.inverse(y)
        assert (
            torch.equal(x_hat, to_grid(x))
            and info.error_bound.max() <= grid_step(x.dtype)
            and (info.residual == 0).all()
        )
        other, info = net[1].inverse(to_grid(torch.randn(2, 8, 5, 5)))  # a y that no x has
        assert (info.residual > 0.1).all()
    with pytest.raises(ValueError, match='more numbers than it gets'):
        net.log_abs_det(x)
    free = MemoryFree(net)
    x.requires_grad_()
    wanted = [x, *net.parameters()]
    for a, b in zip(
        torch.autograd.grad(net(x).square().sum(), wanted),
        torch.autograd.grad(free(x).square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: GridDownsample(4, 'wavelet'), "start='wavelet'"),
        (lambda: GridDownsample(4, stride=3), "stride=3 needs start='space_to_depth'"),
        (lambda: GridDownsample(4, stride=0), 'stride=0'),
        (lambda: GridDownsample(4, 'space_to_depth', stride=1), 'stride=1'),
        (lambda: GridDownsample(4)(torch.zeros(1, 4, 5, 6)), 'becomes 6 x 6'),
        (lambda: GridUpsample(4, 'space_to_depth', 3)(torch.zeros(1, 4, 6, 6)), 'takes 36 channels'),
        (lambda: GridDownsample(4)(torch.zeros(1, 3, 6, 6)), 'build it for 3 channels'),
        (lambda: GridUpsample(4)(torch.zeros(1, 4, 6, 6)), 'takes 16 channels'),
        (lambda: InvertibleSkip(1, ToGrid()), 'at least 2'),
        (lambda: InvertibleSkip(4, ToGrid(), across=4), 'across=4'),
        (lambda: InvertibleSkip(4, nn.Identity()), 'Identity, which is not invertible'),
        (lambda: InvertibleSkip(4, GridDownsample(2))(torch.zeros(1, 4, 6, 6)), 'has to return'),
        (lambda: GridResidual(Split(4)), 'single output'),
        (lambda: GridResidual(nn.Identity()), 'Identity'),
        (lambda: ChannelExpansion(3, 3, nn.Identity()), 'adds no channels'),
        (lambda: ChannelExpansion(3, 5, nn.Identity())(torch.zeros(1, 3, 6, 6)), 'has to return'),
        (lambda: ChannelExpansion(3, 6, nn.Identity())(torch.zeros(1, 6, 6, 6)), 'takes 3 here'),
    ],
)
def test_errors_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
