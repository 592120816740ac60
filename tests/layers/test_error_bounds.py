"""Checks ``|x_hat - x| <= error_bound`` in random settings of every kind."""

import statistics

import pytest
import torch
from helpers.settings import LAYERS, MODES, Setting, build, features, forward, settings
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as run
from torch import Tensor

from mmseg_invattn.layers import (
    ActNorm2d,
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleModule,
    OrthogonalConv1x1,
)
from mmseg_invattn.layers.certificate import USEFUL
from mmseg_invattn.layers.contract import outputs
from mmseg_invattn.layers.orthogonal import rotate
from mmseg_invattn.layers.residual import ResidualLayer
from mmseg_invattn.ops import cast_all, max_token_norm

TOO_LARGE = 'first training batch are not finite'  # features of 1e300: said so when a normalisation starts from them
BATTERY = dict(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(
    layer: InvertibleModule, x: Tensor, y: Tensor | tuple[Tensor, ...] | None = None, **options
) -> tuple[Tensor, Tensor]:
    """The true error and its bound; what the report says of them is so. y: the layer's, if it is made already."""
    if y is None:
        with torch.no_grad():
            y = layer(x)
    if not all(part.isfinite().all() for part in outputs(y)):  # it overflowed: there is nothing to invert
        return torch.zeros(len(x)), torch.zeros(len(x))
    x_hat, info = layer.inverse(y, strict=False, **options)
    error, bound = layer.error_norm(x_hat.double() - x.double()), info.error_bound
    known = ~bound.isnan()
    assert (error[known] <= bound[known]).all(), (error / bound)[known].max()
    # converged says that the bound is a number, and small against the features
    size = torch.stack([max_token_norm(part) for part in (x_hat, *outputs(y))]).amax(0)
    assert known[info.converged].all()
    assert (bound <= 1.01 * USEFUL * size.clamp(min=1e-22) * x.shape[1] ** 0.5)[info.converged].all()
    return error, bound


def check_setting(setting: Setting) -> None:
    generator = torch.Generator().manual_seed(setting.seed)
    try:
        layer, x = build(setting, generator), features(setting, generator)
        check(layer, x, forward(setting, layer, x), max_iter=setting.max_iter)
    except ValueError as error:
        assert TOO_LARGE in str(error)


@given(settings())
@run(max_examples=300, derandomize=True, **BATTERY)
def test_error_is_within_its_bound(setting):
    check_setting(setting)


@given(settings(precisions=('autocast',)))
@run(max_examples=100, derandomize=True, **BATTERY)
def test_error_of_a_branch_under_autocast_is_within_its_bound(setting):
    check_setting(setting)


def draw_settings(start: int, count: int, largest: int) -> None:
    @seed(start)
    @given(settings(largest))
    @run(max_examples=count, **BATTERY)
    def draw(setting):
        check_setting(setting)

    draw()


@pytest.mark.slow
@pytest.mark.parametrize('start', range(8))
def test_error_is_within_its_bound_in_many_settings(start):
    draw_settings(start, 6250, largest=12)


@pytest.mark.slow
@pytest.mark.parametrize('start', range(4))
def test_error_is_within_its_bound_on_large_maps(start):
    """Each takes as long as hundreds of small ones."""
    draw_settings(start, 500, largest=64)


def rounding_at(layer: ResidualLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What rounding changed in ``layer(x)``, and the bound that the layer states a priori, shape (B,) each."""
    with torch.no_grad():
        y = layer(x)
        weights = cast_all(layer._sized(layer.weights(), x), torch.float64)
        seen = layer.assess(x.double(), weights, layer.roundoff(x.dtype))
        exact = x.double() + seen.branch
        rotation = layer.rotation(weights)
        measured = layer.error_norm(y.double() - rotate(exact, rotation))
        stated = layer.inverse(y)[1].rounding
    return measured, stated


ORDINARY = [
    *[pytest.param(CertifiedAttention2d, dict(mode=mode), id=f'certified-{mode}') for mode in MODES],
    pytest.param(CertifiedAttention2d, dict(num_heads=4), id='certified-heads'),
    pytest.param(CertifiedAttention2d, dict(position='quadratic'), id='certified-position'),
    pytest.param(CertifiedAttention2d, dict(neighbourhood='window', window_size=4), id='certified-window'),
    pytest.param(InvConvResidual, dict(), id='convolutions'),
    pytest.param(InvChannelAttention, dict(), id='channels'),
]


@pytest.mark.parametrize('form, options', ORDINARY)
def test_rounding_is_stated_above_what_is_measured_and_not_far_above(form, options):
    ratios = []
    for start in (0, 2):
        torch.manual_seed(start)
        layer, x = form(32, **options), torch.randn(4, 32, 8 + 4 * start, 16)
        layer.train()(x)
        for scale in (0.1, 1.0, 3.0):
            measured, stated = rounding_at(layer.eval(), x * scale)
            assert (measured <= stated).all()
            ratios += (stated / measured).tolist()
    assert statistics.median(ratios) <= 10, statistics.median(ratios)


TIGHT = [
    pytest.param(CertifiedAttention2d, 10, id='certified'),
    pytest.param(InvConvResidual, 20, id='convolutions'),
    pytest.param(ConditionalAttention2d, 20, id='conditional'),
    pytest.param(CouplingAttention2d, 100, id='coupling'),
]


@pytest.mark.parametrize('form, most', TIGHT)
def test_bound_is_near_the_error_of_a_fresh_block(form, most):
    ratios = []
    for start in range(2):
        torch.manual_seed(start)
        layer, x = form(64), torch.randn(4, 64, 32, 32)
        layer.train()(x)
        error, bound = check(layer.eval(), x)
        ratios += (bound / error).tolist()
    assert statistics.median(ratios) <= most, statistics.median(ratios)


@pytest.mark.cases(5)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d])
def test_ascent_on_the_error_of_a_y_that_is_known_up_to_an_error(form, mode):
    """The direction in which x moves most for a given change of y, against the bound around the other end."""
    torch.manual_seed(0)
    layer = form(8, reduction=1, mode=mode).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    layer.train()(3 * x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    layer.eval()
    for reach in (1e-6, 1e-2, 0.3):
        dx = torch.randn_like(x).requires_grad_()
        optimizer = torch.optim.Adam([dx], lr=0.1)
        worst = 0.0
        for step in range(30):
            moved = dx * (reach / max_token_norm(dx))
            dy = layer(x + moved) - layer(x)
            gain = moved.norm(dim=1).max() / dy.norm(dim=1).max()
            if step % 10 == 9:
                error = max_token_norm(dy.detach())
                _, info = layer.inverse(layer(x).detach(), tol=1e-12, error=error)
                assert reach <= info.error_bound
                worst = max(worst, float(reach / info.error_bound))
            optimizer.zero_grad()
            (-gain.log()).backward()
            optimizer.step()
        assert worst > 1e-4


def search(form: type, mode: str, rounds: int) -> float:
    """Largest ``error / bound`` that a random search over weights, features and their scales finds."""
    torch.manual_seed(0)
    layer, x = form(4, reduction=1, mode=mode), torch.randn(64, 4, 1, 2)
    state, best = [p.detach().clone() for p in layer.parameters()], 0.0
    for k in range(rounds):
        with torch.no_grad():
            for parameter, kept in zip(layer.parameters(), state, strict=True):
                step = (0.3 if k % 2 else 1e-3) * torch.randn_like(kept)
                parameter.copy_(kept + step)
        trial = x * (1 + 0.2 * torch.randn(64, 1, 1, 1)) + (0.1 * torch.randn_like(x) if k % 3 else 0)
        error, bound = check(layer, trial)
        ratio = float((error / bound).nan_to_num().max())
        if ratio > best:
            best, x, state = ratio, trial, [p.detach().clone() for p in layer.parameters()]
    return best


@pytest.mark.cases(8)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d])
def test_search_for_an_error_outside(form, mode):
    assert 0 < search(form, mode, 30) <= 1


def _cancelled_bias() -> tuple[InvertibleModule, Tensor]:
    layer, eye = InvConvResidual(4, kernel_sizes=(1, 1)), torch.eye(4)[..., None, None]
    layer.convs[0].weight.copy_(eye), layer.convs[1].weight.copy_(-eye), layer.convs[0].bias.fill_(100.0)
    x = torch.randn(2, 4, 16, 16)
    layer.convs[1].bias.sub_(layer.branch(0 * x, layer.weights())[0, :, 0, 0])
    return layer, x


def _far_centre() -> tuple[InvertibleModule, Tensor]:
    layer = CertifiedAttention2d(1, reduction=1, neighbourhood='window', window_size=1, sharpness=1e-6)
    layer.norm.log_scale.fill_(9.2), layer.norm.centre.fill_(1e3)
    layer.value.weight.fill_(1.0), layer.out.weight.fill_(-1.0)
    return layer, torch.randn(2, 1, 16, 16)


def _far_position() -> tuple[InvertibleModule, Tensor]:
    layer = CertifiedAttention2d(2, reduction=1, mode='gaussian', position='quadratic')
    layer.value.weight.copy_(torch.eye(2)), layer.out.weight.copy_(-torch.eye(2))
    layer.attention.position.centre.copy_(torch.tensor([[100.0, 0.0]])), layer.attention.position.log_alpha.zero_()
    return layer, torch.randn(1024, 2, 2, 2)


def _ill_conditioned() -> tuple[InvertibleModule, Tensor]:
    layer = CertifiedAttention2d(2, reduction=1, bias=False)
    a, e, c = torch.randn(3, 2)
    mode = layer.attention.mode
    mode.query.weight[0], mode.key.weight[0] = torch.stack([1e4 * a, 1e4 * a + e]), torch.stack([c, -c])
    layer.value.weight.copy_(torch.eye(2)), layer.out.weight.copy_(-torch.eye(2))
    return layer, torch.randn(2048, 2, 1, 2)


def _opposite(dtype: torch.dtype, contraction: float) -> tuple[InvertibleModule, Tensor]:
    layer = ConditionalAttention2d(2, reduction=1, contraction=contraction)
    layer.weight.weight.fill_(-1.0)
    return layer, torch.randn(512, 2, 1, 1).to(dtype)


def _rough(layer: InvertibleModule, dtype: torch.dtype, scale: float = 1.0) -> tuple[InvertibleModule, Tensor]:
    for name, parameter in layer.named_parameters():
        if 'log' in name:
            parameter.normal_()
    return layer, (torch.randn(8, layer.channels, 4, 4) * scale).to(dtype)


def _turned(scale: float) -> tuple[InvertibleModule, Tensor]:
    layer = OrthogonalConv1x1(63).double()
    layer.matrix.generator.mul_(scale)
    return layer, torch.randn(2, 63, 4, 4, dtype=torch.float64)


def _halves_apart() -> tuple[InvertibleModule, Tensor]:
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    x[:, :4] *= 1e-6
    return ConditionalAttention2d(8), x


KINDS = {
    'float16 features': lambda: _opposite(torch.float16, 0.9),
    'bfloat16 features': lambda: _opposite(torch.bfloat16, 0.99),
    'subnormal float16 features': lambda: _rough(ActNorm2d(8), torch.float16, 1e-5),
    'subnormal float16 features, mixed': lambda: (InvConv1x1(8), (torch.randn(8, 8, 4, 4) * 1e-5).half()),
    'norms that underflow': lambda: (ConditionalAttention2d(8), torch.randn(2, 8, 4, 4) * 1e-24),
    'norms that underflow in float64': lambda: (
        ConditionalAttention2d(8).double(),
        torch.randn(2, 8, 4, 4, dtype=torch.float64) * 1e-170,
    ),
    'norms that overflow': lambda: (CertifiedAttention2d(8), torch.randn(2, 8, 4, 4) * 1e20),
    'a position far outside': _far_position,
    'a bias that another removes': _cancelled_bias,
    'a centre far outside': _far_centre,
    'factors that cancel': _ill_conditioned,
    'parameters narrower than the features': lambda: _rough(ActNorm2d(8).bfloat16(), torch.float32),
    'parameters in float32, features in float64': lambda: _rough(ActNorm2d(8), torch.float64),
    'halves of unlike size': _halves_apart,
    'an orthogonal matrix far from the identity': lambda: _turned(30.0),
    'an orthogonal matrix further away': lambda: _turned(1e3),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kinds(kind):
    torch.manual_seed(0)
    with torch.no_grad():
        layer, x = KINDS[kind]()
    error, bound = check(layer.eval(), x)
    assert bound.isfinite().all()
    assert bound.max() <= 0.1 * layer.error_norm(x.double()).max()  # and the bound is not vacuous


@pytest.mark.parametrize('scale', [1e-18, 1e-12, 1e10, 1e18])
@pytest.mark.parametrize('mode', MODES)
def test_finite_weights_give_finite_features(mode, scale):
    torch.manual_seed(0)
    layer, x = CertifiedAttention2d(8, mode=mode), torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() == 3:
                parameter.mul_(scale)
        assert layer(x).isfinite().all()
    assert layer.lipschitz_bound() <= 0.9
    check(layer, x)


@pytest.mark.parametrize('layer', [CertifiedAttention2d, ConditionalAttention2d, InvConvResidual, ActNorm2d])
def test_weights_that_are_no_numbers_are_named(layer):
    layer, x = layer(8), torch.randn(1, 8, 2, 2)
    with torch.no_grad():
        y = layer(x)
        for parameter in layer.parameters():
            parameter.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match='have values that are not finite'):
        layer.inverse(y, strict=False)


def test_a_product_that_rounds_to_zero_certifies_what_the_branch_has():
    """``W_O W_V`` is 0 in float32 and not in truth: its norm carries what rounding may hide."""
    layer, tiny = CertifiedAttention2d(2, reduction=1, bias=False, mode='gaussian'), 2.0**-13
    with torch.no_grad():
        value, out = layer.value.weight.zero_(), layer.out.weight.zero_()
        value[0, 0, 0] = out[0, 0, 0] = 1 + tiny
        value[0, 1, 0], out[0, 0, 1] = 1, -(1 + 2 * tiny)
        assert (out @ value)[0, 0, 0] == 0
        weights = layer.for_size(layer.weights(), (1, 1))
        exact = (weights.out.double() @ weights.value.double())[0, 0, 0].abs() / weights.norm.scale.double()
    assert 0 < exact <= layer.lipschitz_bound() <= 0.9


def test_without_a_certificate_the_bound_is_unknown_and_the_check_is_not_made(monkeypatch):
    layer, x = CertifiedAttention2d(8), torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        y = layer(x)
    monkeypatch.setattr(layer, 'assess', None)
    x_hat, info = layer.inverse(y, certify=False)
    assert info.error_bound.isnan().all() and info.converged.all()
    torch.testing.assert_close(x_hat, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.recover_input(y, 1e-6, 100), x, rtol=0, atol=1e-5)


def test_every_layer_is_in_the_battery():
    assert {CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d, InvConvResidual} < set(LAYERS)
