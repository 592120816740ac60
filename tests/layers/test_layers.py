"""Invertible layers against their contract."""

import traceback
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmseg_invattn
from mmseg_invattn.layers import (
    FORMS,
    ActNorm2d,
    CertifiedAttention2d,
    ConditionalAttention2d,
    InvChannelAttention,
    InvertibleModule,
    NonLocalAttention2d,
    NotConvergedError,
)
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.token_norm import TokenNorm
from mmseg_invattn.layers.certificate import uncertified
from mmseg_invattn.layers.contract import check_converged
from mmseg_invattn.layers.exact_norms import jacobian_norm
from mmseg_invattn.layers.solve import Equation, solve_residual
from mmseg_invattn.layers.testing import check_inverse, check_layer
from mmseg_invattn.ops import max_token_norm, solve_fixed_point, to_ball

CERTIFIED = [
    pytest.param(
        dict(in_channels=8, mode=mode, num_heads=heads, sharpness=sharpness), id=f'{mode}-{heads}heads-s{sharpness}'
    )
    for mode in MODES
    for heads in (1, 2)
    for sharpness in (0.5, 8.0)
]
# The whole contract takes seconds: half of them by default.
DEFAULT = ('1heads-s0.5', '2heads-s8.0')
CONTRACT = [
    pytest.param(*config.values, id=config.id, marks=() if config.id.endswith(DEFAULT) else pytest.mark.slow)
    for config in CERTIFIED
]


def settled(block: InvertibleModule, x: torch.Tensor) -> InvertibleModule:
    """The block after its first training batch."""
    block.train()(x)
    return block


@pytest.mark.parametrize('config', CONTRACT)
def test_contract(config):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64) * 3 + 1
    check_layer(settled(CertifiedAttention2d(**config).double(), x), x)


@pytest.mark.parametrize('scale', [0.1, 30.0])
@pytest.mark.parametrize('config', CERTIFIED)
def test_certificate_is_never_violated(config, scale):
    torch.manual_seed(1)
    block = CertifiedAttention2d(**config).double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64) * scale
    weights = block.for_size(block.weights(), (3, 4))
    measured = jacobian_norm(lambda x: block.branch(x, weights), x, config['num_heads'])
    assert 0 < measured <= block.lipschitz_bound() <= 0.9 + 1e-9


@pytest.mark.parametrize('pixels', [(4, 4), (16, 16), (32, 64)])
def test_bound_and_iterations_do_not_depend_on_the_number_of_pixels(pixels):
    torch.manual_seed(2)
    block = CertifiedAttention2d(16, sharpness=4.0)
    x = torch.randn(1, 16, *pixels)
    _, info = block.inverse(block(x))
    assert block.lipschitz_bound() == block.lipschitz_bound(pixels[0] * pixels[1])
    assert info.converged.all() and info.iterations.max() <= 6


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
@pytest.mark.parametrize('channels, heads', [(4, 1), (64, 4), (128, 1)])
def test_inverse_after_violent_training(channels, heads, scale, dtype):
    torch.manual_seed(3)
    block = CertifiedAttention2d(channels, num_heads=heads, sharpness=4.0).to(dtype)
    x = torch.randn(2, channels, 4, 6, dtype=dtype) * scale
    target = torch.randn_like(x) * scale
    optimiser = torch.optim.Adam(block.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        ((block(x) - target) / scale).square().mean().backward()
        optimiser.step()
    assert block.lipschitz_bound() < 0.9 * (1 + 1e-5)
    check_inverse(block, x)


def test_samples_do_not_depend_on_their_neighbours():
    torch.manual_seed(4)
    block = CertifiedAttention2d(8, sharpness=6.0).double()
    y = torch.randn(4, 8, 5, 5, dtype=torch.float64) * torch.tensor([0.01, 1, 10, 100]).view(-1, 1, 1, 1)
    together, info = block.inverse(y, tol=1e-12)
    for i in range(4):
        alone, single = block.inverse(y[i : i + 1], tol=1e-12)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=0)
        assert single.iterations[0] == info.iterations[i]


def test_finished_samples_leave_the_batch():
    torch.manual_seed(4)
    y = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    slope = torch.tensor([0.0, 0.1, 0.5, 0.9], dtype=torch.float64).view(-1, 1, 1, 1)
    evaluated = torch.zeros(4, dtype=torch.long)

    def branch(x, index):
        evaluated[index] += 1
        return slope[index] * x.sin()

    result = solve_fixed_point(
        branch,
        y,
        max_token_norm,
        tol=torch.full((4,), 1e-12, dtype=torch.float64),
        floor=torch.zeros(4),
        contraction=0.9,
    )
    assert result.converged.all() and torch.equal(result.iterations, evaluated)
    assert evaluated.unique().numel() == 4 and evaluated[0] == 1
    torch.testing.assert_close(result.x + slope * result.x.sin(), y)


@given(
    batch=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 3]),
    width=st.integers(1, 3),
    height=st.integers(1, 5),
    length=st.integers(1, 5),
    layout=st.sampled_from(['plain', 'channels_last', 'slice']),
)
@settings(max_examples=40, deadline=None)
def test_any_shape(batch, heads, width, height, length, layout):
    channels = heads * width
    x = torch.randn(batch, channels, height, length * 2)
    x = x[..., ::2] if layout == 'slice' else x[..., :length]
    x = x.contiguous(memory_format=torch.channels_last) if layout == 'channels_last' else x
    check_inverse(CertifiedAttention2d(channels, reduction=1, num_heads=heads), x)


def test_hard_inverse_reports_what_it_reached():
    torch.manual_seed(5)
    block = CertifiedAttention2d(8, contraction=0.99, sharpness=8.0).double()
    y = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    with pytest.raises(NotConvergedError, match='max_iter=2') as error:
        block.inverse(y, tol=1e-12, max_iter=2)
    x, info = block.inverse(y, tol=1e-12, max_iter=2, strict=False)
    assert not info.converged.any() and torch.equal(error.value.x, x) and (info.iterations == 2).all()
    exact, _ = block.inverse(y, tol=1e-12)
    assert (max_token_norm(x - exact) <= info.error_bound).all()


def test_acceleration_needs_fewer_evaluations_than_the_plain_iteration():
    """A linear branch at its bound, where the plain iteration needs log(tol) / log(0.9) evaluations."""
    torch.manual_seed(6)
    y = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    weight = basis @ torch.diag(torch.linspace(-0.9, 0.9, 6, dtype=torch.float64)) @ basis.T
    solve = partial(
        solve_fixed_point,
        lambda x, index: torch.einsum('oc,bchw->bohw', weight, x),
        y,
        max_token_norm,
        tol=torch.full((3,), 1e-9, dtype=torch.float64),
        floor=torch.zeros(3),
        contraction=0.9,
        max_iter=1000,
    )
    exact = torch.einsum('oc,bchw->bohw', torch.linalg.inv(torch.eye(6, dtype=torch.float64) + weight), y)
    fast, plain = solve(), solve(memory=0)
    for result in (fast, plain):
        assert result.converged.all() and (max_token_norm(result.x - exact) <= result.residual / 0.1).all()
    assert plain.iterations.min() > 150
    assert fast.iterations.max() <= plain.iterations.min() / 5


def test_acceleration_never_loses_the_guaranteed_rate():
    """Rotations of every angle: no memory of five steps helps, so all that is left is the guarantee of plain steps."""
    torch.manual_seed(6)
    y = torch.randn(3, 64, 4, 4, dtype=torch.float64)
    weight = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0] * 0.9
    result = solve_fixed_point(
        lambda x, index: torch.einsum('oc,bchw->bohw', weight, x),
        y,
        max_token_norm,
        tol=torch.full((3,), 1e-6, dtype=torch.float64),
        floor=torch.zeros(3),
        contraction=0.9,
        max_iter=1000,
    )
    plain = torch.log(1e-6 / max_token_norm(y).max()) / torch.log(torch.tensor(0.9))
    assert result.converged.all() and result.iterations.max() <= 2 * plain + 25


def test_without_a_contraction_it_says_so():
    y = torch.randn(1, 2, 3, 3)
    x, solved = solve_residual(
        Equation(lambda x, index: 3 * x.square(), y, max_token_norm), None, tol=1e-6, max_iter=50
    )
    info = uncertified(solved, groups=1)
    with pytest.raises(NotConvergedError):
        check_converged(x, info, None, 1e-6, 50)
    assert not info.converged.any() and info.error_bound.isnan().all() and info.residual.isfinite().all()


@pytest.mark.parametrize('form', ['certified', 'conditional', 'paper'])
@pytest.mark.parametrize('mode', MODES)
def test_autocast_keeps_the_norms_in_float32(mode, form):
    torch.manual_seed(7)
    block = FORMS[form](32, mode=mode, num_heads=2, **dict(gamma='scalar') if form == 'paper' else {})
    block = settled(block, torch.randn(2, 32, 6, 6)).eval()
    x = torch.randn(2, 32, 6, 6)
    bound, plain = block.lipschitz_bound(), block(x.bfloat16())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert block.lipschitz_bound() == bound
        y = block(x.bfloat16())
        assert y.dtype == torch.bfloat16 and torch.equal(y, plain)
        x_hat, info = block.inverse(y)
    assert x_hat.dtype == torch.float32 and info.converged.all()
    if form != 'paper':
        assert (max_token_norm(x_hat - x.bfloat16().float()) <= info.error_bound).all()


def test_normalisation_starts_from_the_data_once():
    torch.manual_seed(8)
    norm = TokenNorm(4, groups=2)
    x = torch.randn(3, 2, 50, 4) * 7 + 5
    norm.eval().start(x)
    torch.testing.assert_close(norm().bounded(x), to_ball(x))
    norm.train().start(x)
    y = norm().centred(x) / norm().scale
    torch.testing.assert_close(norm().bounded(x), to_ball(y))
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.square().sum(-1).mean((0, 2)), torch.full((2,), 1 / 9))
    before = [tensor.clone() for tensor in norm()]
    norm.start(x * 3)  # a second batch does not move it
    assert all(map(torch.equal, before, norm())) and all(map(torch.equal, before, norm.eval()()))
    other = TokenNorm(4, groups=2)
    other.load_state_dict(norm.state_dict())
    other.train().start(x * 2)
    assert torch.equal(other().bounded(x * 2), norm().bounded(x * 2))


@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
@pytest.mark.parametrize('build', [CertifiedAttention2d, ConditionalAttention2d, InvChannelAttention, ActNorm2d])
def test_a_first_batch_that_is_not_finite_sets_nothing(build, bad):
    torch.manual_seed(9)
    block, x = build(8), torch.randn(2, 8, 4, 4)
    x[1, 7, 2, 2] = bad
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    with pytest.raises(ValueError, match='Norm.* takes from the first training batch are not finite'):
        block(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in block.state_dict().items())
    block(x.nan_to_num(0, 0, 0))  # the next batch is the first one
    assert any(name.endswith('initialised') and tensor for name, tensor in block.state_dict().items())


def test_ordinary_block_has_no_inverse_and_starts_as_the_identity():
    block = NonLocalAttention2d(8, num_heads=2)
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(block(x), x) and not isinstance(block, InvertibleModule)
    for name in ('inverse', 'lipschitz_bound', 'log_abs_det', 'bi_lipschitz_bound', 'inverse_error', 'saturation'):
        assert not hasattr(block, name)


def frames_of(call) -> int:
    """The deepest Python stack within the package while an attention kernel is entered, the kernel included."""
    package, deepest = str(Path(mmseg_invattn.__file__).parent), [0]

    def recorded(kernel):
        def entered(*args, **kwargs):
            inside = sum(frame.filename.startswith(package) for frame in traceback.extract_stack())
            deepest[0] = max(deepest[0], inside + 1)
            return kernel(*args, **kwargs)

        return entered

    block = call.__self__
    for module in block.modules():
        for name in ('attend', 'ordinary', 'paper', 'kernel'):
            if hasattr(module, name) and not isinstance(getattr(module, name), torch.nn.Module):
                setattr(module, name, recorded(getattr(module, name)))
    call(torch.randn(1, 8, 4, 4))
    return deepest[0]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', FORMS)
def test_forward_branch_and_kernel_are_all_frames(form, mode):
    assert 2 <= frames_of(FORMS[form](8, mode=mode).forward) <= 3


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', [form for form in FORMS if form != 'none'])
def test_the_inverse_has_the_solver_between_them(form, mode):
    torch.manual_seed(10)
    block = FORMS[form](8, mode=mode, **dict(gamma='scalar') if form == 'paper' else {})
    if form == 'paper':
        torch.nn.init.constant_(block.gamma, 0.01)
    assert 4 <= frames_of(block.inverse) <= 6


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(mode='linear'), r"mode='linear' is unknown: choose one of 'gaussian', 'embedded_gaussian'"),
        (dict(contraction=1.0), r'contraction=1.0 is outside \(0, 1\)'),
        (dict(contraction=0.0), r'contraction=0.0 is outside \(0, 1\)'),
        (dict(sharpness=-1.0), r'sharpness=-1.0 must be a positive number'),
        (dict(reduction=3), r'in_channels=8 is not a multiple of num_heads \* reduction = 1 \* 3'),
        (dict(num_heads=8), r'in_channels=8 is not a multiple of num_heads \* reduction = 8 \* 2'),
        (dict(num_heads=0), r'num_heads=0 is not a positive integer'),
        (
            dict(heads='shared'),
            "heads='shared' has no effect with num_heads=1: it belongs to several heads; leave it out",
        ),
        (dict(position_size=4), "position_size=4 has no effect with position=None: it belongs to position='learned'"),
        (dict(position='quadratic', position_size=4), "position_size=4 has no effect with position='quadratic'"),
        (
            dict(window_size=4),
            "window_size=4 has no effect with neighbourhood='full': it belongs to neighbourhood='win",
        ),
        (dict(neighbourhood='criss_cross', window_shift=0), "window_shift=0 has no effect with neighbourhood='criss_"),
    ],
)
def test_bad_arguments(arguments, words):
    for form in (CertifiedAttention2d, ConditionalAttention2d):
        with pytest.raises(ValueError, match=words):
            form(8, **arguments)


OPTIONS = ['mode', 'reduction', 'num_heads', 'bias', 'position', 'position_size', 'key_pooling']
LOCAL = ['neighbourhood', 'window_size', 'window_shift']
TAKES = {
    'certified': ['contraction', 'sharpness', 'heads', 'precision', *OPTIONS, *LOCAL],
    'conditional': ['contraction', 'sharpness', 'heads', 'precision', *OPTIONS, *LOCAL],
    'coupling': ['precision', *OPTIONS, *LOCAL],
    'paper': ['gamma', 'precision', *OPTIONS],
    'none': OPTIONS,
}


@pytest.mark.parametrize('form', FORMS)
def test_arguments_that_a_form_does_not_obey_are_refused(form):
    takes = TAKES[form]
    for name in {name for other in TAKES.values() for name in other}.difference(takes) | {'form', 'channels'}:
        with pytest.raises(
            TypeError,
            match=rf"{FORMS[form].__name__} takes no argument '{name}'.*: it takes "
            rf'in_channels, {", ".join(takes)}$',
        ):
            FORMS[form](8, **{name: None})
    with pytest.raises(TypeError, match=r"takes no argument 'num_head' \(did you mean 'num_heads'\?\)"):
        FORMS[form](8, num_head=2)
    with pytest.raises(TypeError, match='positional'):
        FORMS[form](8, 2)


@pytest.mark.parametrize('form', FORMS)
def test_bad_features(form):
    block = FORMS[form](8)
    for shape in ((0, 8, 4, 4), (1, 8, 0, 4)):
        with pytest.raises(ValueError, match='empty feature map'):
            block(torch.zeros(shape))
    with pytest.raises(ValueError, match=r'takes \(B, C, H, W\) with C = 8'):
        block(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match=r'takes \(B, C, H, W\), four dimensions'):
        block(torch.zeros(8, 4, 4))
    with pytest.raises(ValueError, match='int64'):
        block(torch.zeros(1, 8, 4, 4, dtype=torch.long))


def test_inverse_refuses_values_that_are_not_finite():
    y = torch.zeros(2, 8, 4, 4)
    y[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r'not finite .* per sample is \[0, 1\]'):
        CertifiedAttention2d(8).inverse(y)
