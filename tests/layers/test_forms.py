"""The forms beside the certified one, each against what it promises."""

import copy

import pytest
import torch
from torch import nn

from mmseg_invattn.layers import (
    FORMS,
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    InvConvResidual,
    InvertibleModule,
    InvertibleSequential,
    InvRelativeAttention2d,
    MemoryFree,
    NonLocalAttention2d,
    OrthogonalConv1x1,
    composed_error,
)
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.exact_norms import jacobian_norm
from mmseg_invattn.layers.testing import TOLERANCE, check_gradients, check_inverse, check_layer
from mmseg_invattn.ops import max_token_norm

EXACT = ('conditional', 'coupling')


def check_round_trip(block, x):
    """Converged, and the true error within the reported bound."""
    y = block(x).detach()
    x_hat, info = block.inverse(y, tol=TOLERANCE[x.dtype])
    assert info.converged.all() and x_hat.shape == x.shape
    error = max_token_norm(x_hat - x)
    assert (error <= info.error_bound).all(), (error, info.error_bound)
    return error / max_token_norm(x)


def started(form: str, mode: str, **options) -> nn.Module:
    """A block in float64, away from the identity as which some start; form paper weak enough to be inverted."""
    options = dict(gamma='scalar', **options) if form == 'paper' else options
    block = FORMS[form](8, mode=mode, num_heads=2, **options).double()
    if form == 'paper':
        torch.nn.init.constant_(block.gamma, 0.01)
    if form == 'none':
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.cases(12)
@pytest.mark.parametrize(
    'form, heads',
    [
        *[(form, dict()) for form in FORMS if form != 'certified'],  # that one is in test_layers.py
        ('certified', dict(heads='shared')),
        ('conditional', dict(heads='shared')),
    ],
    ids=str,
)
@pytest.mark.parametrize('mode', MODES)
def test_contract(form, mode, heads):
    torch.manual_seed(0)
    block = started(form, mode, **heads)
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64) * 2 + 1
    block.train()(x)
    if form == 'none':
        check_gradients(block, x)
        assert not isinstance(block, InvertibleModule) and not hasattr(block, 'inverse')
    else:
        check_layer(block, x)


@pytest.mark.parametrize('heads', ['grouped', 'shared'])
@pytest.mark.parametrize('sharpness', [1.0, 100.0])
@pytest.mark.parametrize('mode', MODES)
def test_conditional_is_certified_at_any_sharpness(mode, sharpness, heads):
    torch.manual_seed(1)
    block = ConditionalAttention2d(8, mode=mode, sharpness=sharpness, num_heads=2, heads=heads).double()
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64) * 3
    weights = block.for_size(block.weights(), (3, 3))
    x1, x2 = x.chunk(2, 1)
    mix = block._mixer(x2, weights)
    measured = jacobian_norm(lambda x1: block._mixed(x1, mix, weights.weight), x1, block.groups)
    assert 0.1 < measured <= block.lipschitz_bound() <= 0.9 * (1 + 1e-9)
    assert float(block.local_lipschitz(x)) <= measured * (1 + 1e-9)


HEADS = [dict(), dict(num_heads=2), dict(num_heads=2, heads='shared')]
PARTS = [
    dict(key_pooling=2),
    dict(neighbourhood='criss_cross'),
    dict(neighbourhood='window', window_size=2, window_shift=1),
    dict(position='quadratic'),
]


def small_block(form: str, options: dict) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A block, x, and log|det| of the Jacobian there."""
    torch.manual_seed(2)
    options = dict(options, contraction=0.5) if form == 'conditional' else options
    block = FORMS[form](4, **options, reduction=1).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    exact = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda t: block(t[None])[0], sample).reshape(24, 24).slogdet()[1]
            for sample in x
        ]
    )
    return block, x, exact


@pytest.mark.parametrize(
    'form, options',
    [
        *[('conditional', options) for options in [*HEADS, *PARTS]],
        *[('coupling', options) for options in [*HEADS[:2], *PARTS]],
    ],
    ids=str,
)
def test_log_determinant_is_that_of_the_jacobian(form, options):
    block, x, exact = small_block(form, options)
    torch.testing.assert_close(block.log_abs_det(x, n_terms=60, n_samples=24), exact, rtol=1e-9, atol=1e-10)
    if form == 'conditional':
        torch.testing.assert_close(block.log_abs_det(x, n_terms='exact'), exact)
        x.requires_grad_()
        inputs = [x, *(p for p in block.parameters() if p.requires_grad)]
        series, exact = (
            torch.autograd.grad(block.log_abs_det(x, *terms).sum(), inputs, allow_unused=True)
            for terms in ((60, 24), ('exact',))
        )
        assert max(d.abs().max() for d in exact if d is not None) > 1e-3
        for ours, theirs in zip(series, exact, strict=True):
            torch.testing.assert_close(
                *(torch.zeros(()) if d is None else d for d in (ours, theirs)), rtol=1e-7, atol=1e-9
            )


@pytest.mark.parametrize('options', HEADS, ids=str)
def test_memory_of_the_conditional_log_determinant_does_not_grow_with_the_terms(options):
    block = ConditionalAttention2d(8, **options)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    held = []
    for n_terms in (2, 40):
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, stored=stored: stored.append(t.numel()) or t, lambda t: t
        ):
            block.log_abs_det(x, n_terms).sum().backward()
        held.append(sum(stored))
    assert held[0] == held[1] > 0


@pytest.mark.parametrize('n_terms', [30, 'roulette'])
@pytest.mark.parametrize('options', [*HEADS, *(pytest.param(part, marks=pytest.mark.slow) for part in PARTS)], ids=str)
def test_estimates_of_the_conditional_log_determinant_have_no_bias(options, n_terms):
    block, x, exact = small_block('conditional', options)
    torch.manual_seed(3)
    with torch.no_grad():
        draws = torch.stack([block.log_abs_det(x, n_terms=n_terms, n_samples=5) for _ in range(100)])
    spread = draws.std(0) / 100**0.5
    assert ((draws.mean(0) - exact).abs() < 4 * spread + 1e-9).all()  # unbiased but for 0.5^31


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', EXACT)
def test_an_inexact_output_moves_the_inverse_within_the_rule(form, mode):
    """``inverse_error``: y is known up to e, how far is x."""
    torch.manual_seed(4)
    block = FORMS[form](8, mode=mode, **dict(sharpness=3.0) if form == 'conditional' else {}).double()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    y = block(x).detach()
    for size in (1e-6, 1e-2, 1.0):
        noise = torch.randn_like(y)
        noise = noise * size / max_token_norm(noise)[:, None, None, None]
        moved, _ = block.inverse(y + noise, tol=1e-12)
        allowed = block.inverse_error(moved, max_token_norm(noise))
        assert (max_token_norm(moved - x) <= allowed).all()
        # An inverse that was stopped early leaves an error of its own, and the other one is larger around its x.
        rough, info = block.inverse(y + noise, max_iter=2, strict=False)
        assert (max_token_norm(rough - x) <= composed_error(block, rough, info, max_token_norm(noise))).all()
        assert (
            block.inverse_error(rough, max_token_norm(noise), within=1.0)
            >= block.inverse_error(rough, max_token_norm(noise))
        ).all()


def test_coupling_keeps_its_streams_in_float32():
    torch.manual_seed(5)
    block = CouplingAttention2d(8)
    x = torch.randn(2, 8, 4, 4).bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = block(x)
        assert y.dtype == torch.float32
        x_hat, info = block.inverse(y)
    assert (x_hat - x.float()).abs().max() < 1e-4 and info.converged.all()


def test_halves_need_even_channels():
    for form in EXACT:
        with pytest.raises(ValueError, match=r'in_channels=9 is not a multiple of 2 \* num_heads = 2'):
            FORMS[form](9, reduction=1)


MMCV = {
    'theta': 'attention.mode.query',
    'phi': 'attention.mode.key',
    'g': 'value',
    'conv_out': 'out',
    'concat_project': 'attention.mode.join',
}


@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'])
def test_ordinary_block_is_mmcv_non_local(mode):
    mmcv_cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(6)
    # mmcv's Gaussian mode needs the values to have as many channels as its features, whatever the reduction
    theirs = mmcv_cnn.NonLocal2d(8, reduction=2, mode=mode).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = NonLocalAttention2d(8, reduction=2, mode=mode).double()
    state = {}
    for name, tensor in theirs.state_dict().items():
        layer, _, kind = name.split('.')
        if kind == 'bias':
            state['branch.bias.vector' if layer == 'conv_out' else f'branch.{MMCV[layer]}.bias'] = (
                tensor if layer == 'conv_out' else tensor[None]
            )
        else:
            state[f'branch.{MMCV[layer]}.weight'] = tensor[None, :, :, 0, 0]
    ours.load_state_dict(state)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('form', ['paper', 'none'])
def test_positions_need_a_softmax_and_parts_need_a_certificate(form):
    with pytest.raises(ValueError, match="position='learned' is added to the logits of a softmax, but mode="):
        FORMS[form](8, mode='dot_product', position='learned')
    with pytest.raises(TypeError, match=f"{FORMS[form].__name__} takes no argument 'neighbourhood'"):
        FORMS[form](8, neighbourhood='window')


@pytest.mark.parametrize('form', ['paper', 'none', 'coupling', 'conditional', 'certified'])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'l2'])
def test_every_softmax_mode_takes_positions_and_pooled_keys_in_every_form(mode, form):
    torch.manual_seed(10)
    x = torch.randn(2, 8, 5, 7)
    for position in ('learned', 'quadratic'):
        for pooling in (3, (1, 2)):
            block = FORMS[form](8, mode=mode, position=position, key_pooling=pooling, reduction=2)
            for name, parameter in block.named_parameters():
                torch.nn.init.normal_(parameter, std=0.5) if 'position' in name or 'out' in name else None
            y = block(x)
            plain = copy.deepcopy(block)
            for module in plain.modules():
                if hasattr(module, 'position') and module.position is not None:
                    for parameter in module.position.parameters():
                        torch.nn.init.zeros_(parameter)
            assert y.isfinite().all() and not torch.allclose(y, plain(x), atol=1e-5)
            if form not in ('paper', 'none'):
                assert check_round_trip(block, x).max() < 1e-3


def test_check_inverse_covers_the_conditional_form():
    torch.manual_seed(11)
    check_inverse(ConditionalAttention2d(8, num_heads=2), torch.randn(2, 8, 6, 5))


@pytest.mark.parametrize('form', [form for form in FORMS if form != 'none'])
@pytest.mark.parametrize('mode', MODES)
def test_forward_under_autocast_is_the_map_that_the_inverse_inverts(mode, form):
    """With float32 features: a branch in bfloat16 would be a thousand times the reported bound away."""
    torch.manual_seed(12)
    block, x = started(form, mode).float(), torch.randn(2, 8, 6, 5)
    block.train()(x)
    block.eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        y = block(x)
    assert torch.equal(y, block(x))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        x_hat, info = block.inverse(y, strict=form != 'paper')  # ELU weights may sum to nearly 0 there
        log_det = block.log_abs_det(x[:, :, :2, :2], 'exact')
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(log_det, block.log_abs_det(x[:, :, :2, :2], 'exact'))
    if form == 'paper':
        assert info.error_bound.isnan().all() and block.log_abs_det_error_bound(x, 'roulette') is None
    else:
        assert info.converged.all() and (max_token_norm(x_hat - x) <= info.error_bound).all()


RESIDUAL = {
    **{form: lambda form=form: started(form, 'embedded_gaussian') for form in ('certified', 'conditional', 'paper')},
    'channel': lambda: InvChannelAttention(8),
    'convolutions': lambda: InvConvResidual(8),
    'positions': lambda: InvRelativeAttention2d(8, 3),
}


def check_rounded_once(block, x):
    """What comes back is the result in float32, rounded; the inverse is that of what was stored, in float32."""
    wide = copy.deepcopy(block).float()
    with torch.no_grad():
        y, other = block(x), wide(x.float())
        assert torch.equal(y, other.to(x.dtype))
        (y, log_det), (other, wide_log_det) = (
            torch.manual_seed(15) and module.forward_and_log_abs_det(features, 3)
            for module, features in ((block, x), (wide, x.float()))
        )
    assert torch.equal(y, other.to(x.dtype)) and torch.equal(log_det, wide_log_det)
    (x_hat, info), (wide_x_hat, wide_info) = block.inverse(y), wide.inverse(y.float())
    assert x_hat.dtype == torch.float32 and torch.equal(x_hat, wide_x_hat)
    assert torch.equal(info.residual, wide_info.residual) and torch.equal(info.iterations, wide_info.iterations)
    if not info.error_bound.isnan().all():
        assert (block.error_norm(x_hat - x.float()) <= info.error_bound).all()


def settled_in_half(name, dtype):
    torch.manual_seed(14)
    block, x = RESIDUAL[name]().float(), torch.randn(2, 8, 5, 4).to(dtype)
    block.train()(x.float())
    return block.eval(), x


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', RESIDUAL)
def test_half_precision_features_are_rounded_once(name, dtype):
    check_rounded_once(*settled_in_half(name, dtype))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', RESIDUAL)
def test_half_precision_parameters_are_computed_in_float32(name, dtype):
    block, x = settled_in_half(name, dtype)
    check_rounded_once(block.to(dtype), x)


def test_a_sequence_of_every_form_is_memory_free():
    """In training mode, where form paper moves its u and v at every forward pass and must not in the backward pass."""
    torch.manual_seed(13)
    plain = InvertibleSequential(
        *(started(form, 'embedded_gaussian') for form in FORMS if form != 'none'),
        CertifiedAttention2d(8),
        OrthogonalConv1x1(8),
        CertifiedAttention2d(8),
        InvChannelAttention(8),
        CertifiedAttention2d(8),
    ).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    plain.train()(x)
    results = []
    for module in (copy.deepcopy(plain), MemoryFree(copy.deepcopy(plain))):
        point = x.clone().requires_grad_()
        y = module(point)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        results.append([y.detach(), point.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9 * float(y.detach().abs().max()))
    total = plain.eval().log_abs_det(x, 'exact')
    jacobian = torch.autograd.functional.jacobian(lambda t: plain(t[None])[0], x[0]).reshape(72, 72)
    torch.testing.assert_close(total[0], jacobian.slogdet()[1])
