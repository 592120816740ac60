"""The forms beside the certified one, each against what it promises."""
import copy
import io

import pytest
import torch
from invertible import TOLERANCE, check_inverse, jacobian_norm
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.layers import InvNonLocal2d, NotConvergedError, convert_paper_weights
from mmseg_invattn.layers.modes import MODES
from mmseg_invattn.layers.soft_spectral_norm import SoftSpectralNorm
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


@pytest.mark.parametrize('heads', ['grouped', 'shared'])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', EXACT)
def test_contract(form, mode, heads):
    torch.manual_seed(0)
    block = InvNonLocal2d(8, mode=mode, form=form, num_heads=2, heads=heads).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64) * 2 + 1
    block.train()(x)
    assert check_round_trip(block, x).max() < 1e-11
    assert check_round_trip(copy.deepcopy(block).float(), x.float()).max() < 1e-3
    assert torch.equal(block.train()(x), block.eval()(x))
    block.zero_grad()
    (block(x) * torch.randn_like(x)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    assert torch.autograd.gradcheck(block, x[:1, :, :2, :2].clone().requires_grad_())
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(block, x[:1, :, :1, :2].clone().requires_grad_())
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    other = InvNonLocal2d(8, mode=mode, form=form, num_heads=2, heads=heads).double().eval()
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    y = block(x).detach()
    assert torch.equal(block.inverse(y)[0], other.inverse(y)[0])


@pytest.mark.parametrize('heads', ['grouped', 'shared'])
@pytest.mark.parametrize('sharpness', [1.0, 100.0])
@pytest.mark.parametrize('mode', MODES)
def test_conditional_is_certified_at_any_sharpness(mode, sharpness, heads):
    torch.manual_seed(1)
    block = InvNonLocal2d(8, mode=mode, form='conditional', sharpness=sharpness, num_heads=2, heads=heads).double()
    form = block.block
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64) * 3
    scores, weight = form.weights()
    x1, x2 = x.chunk(2, 1)
    mix = form._mixer(x2, scores)
    measured = jacobian_norm(lambda x1: form._mixed(x1, mix, weight), x1, form.groups)
    assert 0.1 < measured <= block.lipschitz_bound() <= 0.9 * (1 + 1e-9)
    assert float(block.local_lipschitz(x)) <= measured * (1 + 1e-9)


@pytest.mark.parametrize('options', [dict(), dict(num_heads=2), dict(num_heads=2, heads='shared'),
                                     dict(key_pooling=2), dict(neighbourhood='criss_cross'),
                                     dict(neighbourhood='window', window_size=2, window_shift=1),
                                     dict(position='quadratic')], ids=str)
@pytest.mark.parametrize('form', EXACT)
def test_log_determinant_is_that_of_the_jacobian(form, options):
    torch.manual_seed(2)
    block = InvNonLocal2d(4, form=form, contraction=0.5, **options, reduction=1).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    exact = torch.stack([
        torch.autograd.functional.jacobian(lambda t: block(t[None])[0], sample).reshape(24, 24).slogdet()[1]
        for sample in x])
    torch.testing.assert_close(block.log_abs_det(x, n_terms=60, n_samples=24), exact, rtol=1e-9, atol=1e-10)
    if form == 'conditional':
        torch.manual_seed(3)
        with torch.no_grad():
            draws = torch.stack([block.log_abs_det(x, n_terms=30, n_samples=5) for _ in range(300)])
        spread = draws.std(0) / 300**0.5
        assert ((draws.mean(0) - exact).abs() < 4 * spread + 1e-9).all()  # unbiased but for 0.5^31
        loss = block.log_abs_det(x).sum()
        assert torch.autograd.grad(loss, block.block.weight.weight)[0].abs().max() > 0


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('form', EXACT)
def test_an_inexact_output_moves_the_inverse_within_the_rule(form, mode):
    """``inverse_error``: y is known up to e, how far is x."""
    torch.manual_seed(4)
    block = InvNonLocal2d(8, mode=mode, form=form, sharpness=3.0).double()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    y = block(x).detach()
    for size in (1e-6, 1e-2, 1.0):
        noise = torch.randn_like(y)
        noise = noise * size / max_token_norm(noise)[:, None, None, None]
        moved, _ = block.inverse(y + noise, tol=1e-12)
        allowed = block.inverse_error(moved, max_token_norm(noise))
        assert (max_token_norm(moved - x) <= allowed).all()


def test_coupling_keeps_its_streams_in_float32():
    torch.manual_seed(5)
    block = InvNonLocal2d(8, form='coupling')
    x = torch.randn(2, 8, 4, 4).bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = block(x)
        assert y.dtype == torch.float32
        x_hat, info = block.inverse(y)
    assert (x_hat - x.float()).abs().max() < 1e-4 and info.converged.all()


def test_halves_need_even_channels():
    for form in EXACT:
        with pytest.raises(ValueError, match=r'in_channels=9 is not a multiple of 2 \* num_heads = 2'):
            InvNonLocal2d(9, reduction=1, form=form)


MMCV = {'theta': 'attention.mode.query', 'phi': 'attention.mode.key', 'g': 'value', 'conv_out': 'out',
        'concat_project': 'attention.mode.join'}


@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'])
def test_ordinary_block_is_mmcv_non_local(mode):
    mmcv_cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(6)
    # mmcv's Gaussian mode needs the values to have as many channels as its features, whatever the reduction
    theirs = mmcv_cnn.NonLocal2d(8, reduction=2, mode=mode).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = InvNonLocal2d(8, reduction=2, mode=mode, form='none').double()
    state = {}
    for name, tensor in theirs.state_dict().items():
        layer, _, kind = name.split('.')
        if kind == 'bias':
            state['block.bias' if layer == 'conv_out' else f'block.{MMCV[layer]}.bias'] = (
                tensor if layer == 'conv_out' else tensor[None])
        else:
            state[f'block.{MMCV[layer]}.weight'] = tensor[None, :, :, 0, 0]
    ours.load_state_dict(state)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- form paper, against a plain reading of its formulas


def reference_paper(state, x, mode, convolution):
    """``x + Gamma(V a)``, ``a_ij = f_ij / (1.5 sum_i f_ij)``, with the names of the authors' state dict."""
    batch, channels, height, width = x.shape
    coefficients = dict(query_conv=.9, key_conv=.9, concat_conv=.9, value_conv=.5 if mode == 'dot_product' else .9,
                        gamma=.9)

    def conv(name, t):
        weight = state[f'{name}.weight_orig']
        sigma = state[f'{name}.weight_u'] @ weight.flatten(1) @ state[f'{name}.weight_v']
        weight = weight / max(1.0, float(sigma) / coefficients[name])
        return torch.nn.functional.conv2d(t, weight, state.get(f'{name}.bias'))

    if mode == 'gaussian':
        q = k = x.flatten(2)
    else:
        q, k = conv('query_conv', x).flatten(2), conv('key_conv', x).flatten(2)
    if mode == 'concatenation':
        n = height * width
        pairs = torch.cat([q[:, :, :, None].expand(-1, -1, -1, n), k[:, :, None].expand(-1, -1, n, -1)], 1)
        f = torch.nn.functional.elu(conv('concat_conv', pairs)[:, 0])
    else:
        f = q.mT @ k
        f = torch.nn.functional.elu(f) if mode == 'dot_product' else f.exp()
    a = f / (1.5 * f.sum(1, keepdim=True))
    out = (conv('value_conv', x).flatten(2) @ a).view(batch, channels, height, width)
    return x + (conv('gamma', out) if convolution else torch.tanh(state['gamma']) * out)


def authors_state(mode, channels, convolution):
    """Random tensors under the authors' names, with u and v after a few power iterations."""
    sizes = dict(value_conv=(channels, channels))
    if mode != 'gaussian':
        sizes |= dict(query_conv=(channels // 4, channels), key_conv=(channels // 4, channels))
    if mode == 'concatenation':
        sizes |= dict(concat_conv=(1, channels // 2))
    state = {}
    if convolution:
        sizes |= dict(gamma=(channels, channels))
    else:
        state['gamma'] = torch.tensor([0.7], dtype=torch.float64)
    for name, (rows, columns) in sizes.items():
        weight = torch.randn(rows, columns, dtype=torch.float64) * 0.5
        norm = SoftSpectralNorm(weight[None].float(), 0.9).double()
        norm.iterate(weight[None])
        state |= {f'{name}.weight_orig': weight[..., None, None], f'{name}.weight_u': norm.u[0],
                  f'{name}.weight_v': norm.v[0], f'{name}.weight_sigma': torch.ones(1)}
        if name != 'concat_conv':
            state[f'{name}.bias'] = torch.randn(rows, dtype=torch.float64) * 0.3
    return state


@pytest.mark.parametrize('convolution', [True, False])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'])
def test_paper_is_its_formulas_with_the_authors_weights(mode, convolution):
    torch.manual_seed(7)
    state = authors_state(mode, 12, convolution)
    block = InvNonLocal2d(12, reduction=4, mode=mode, form='paper', gamma='conv' if convolution else 'scalar').double()
    block.load_state_dict(convert_paper_weights({f'res_branch.{k}': v for k, v in state.items()}))
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64) * 0.5
    torch.testing.assert_close(block.eval()(x), reference_paper(state, x, mode, convolution), rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="'backbone.conv1.weight' is not a tensor of the authors"):
        convert_paper_weights({'backbone.conv1.weight': torch.zeros(1)})


@pytest.mark.parametrize('mode', MODES)
def test_paper_iterates_in_training_and_saves_its_vectors(mode):
    torch.manual_seed(8)
    block = InvNonLocal2d(8, reduction=4, mode=mode, form='paper')
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 8, 3, 3)
    chain = block.block.value.parametrizations.weight
    u, expected = chain[0].u.clone(), chain[0].u[0].clone()
    block.eval()(x)
    assert torch.equal(chain[0].u, u)
    for _ in range(5):
        right = torch.nn.functional.normalize(chain.original[0].mT @ expected, dim=0)
        expected = torch.nn.functional.normalize(chain.original[0] @ right, dim=0)
    y = block.train()(x)
    torch.testing.assert_close(chain[0].u[0], expected)
    for _ in range(30):
        y = block(x)
    coefficient = 0.5 if mode == 'dot_product' else 0.9
    assert torch.linalg.matrix_norm(block.block.value.weight[0], 2).item() == pytest.approx(coefficient, rel=1e-3)
    y.sum().backward()
    other = InvNonLocal2d(8, reduction=4, mode=mode, form='paper')
    other.load_state_dict(block.state_dict())
    assert torch.equal(other.eval()(x), block.eval()(x))
    # Soft: a weight of a smaller norm is left alone.
    with torch.no_grad():
        chain.original.mul_(1e-3)
    torch.testing.assert_close(block.block.value.weight, chain.original)


def test_paper_scalar_gamma_starts_as_the_identity():
    block = InvNonLocal2d(8, form='paper', gamma='scalar')
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(block(x), x)
    x_hat, info = block.inverse(x)
    assert torch.equal(x_hat, x) and info.converged.all() and info.error_bound.isnan().all()


def violent_paper(mode, scale):
    """Random weights of size 1 before normalisation, well within what training reaches."""
    torch.manual_seed(9)
    block = InvNonLocal2d(12, reduction=4, mode=mode, form='paper')
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    for _ in range(10):
        block(torch.randn(1, 12, 6, 6))
    return block, torch.randn(4, 12, 6, 6) * scale


def test_paper_inverse_says_when_it_failed():
    block, x = violent_paper('concatenation', 1)
    y = block(x).detach()
    with pytest.raises(NotConvergedError, match='certified Lipschitz bound None') as error:
        block.inverse(y)
    x_hat, info = block.inverse(y, strict=False)
    assert not info.converged.all() and torch.equal(error.value.x, x_hat)
    assert (info.residual[~info.converged] > 1e-6).all() and info.error_bound.isnan().all()
    assert block.lipschitz_bound() is None and block.local_lipschitz(x).max() > 1


def test_paper_can_converge_to_another_input():
    """Why a small residual proves nothing without a certificate, and the error bound stays NaN."""
    block, x = violent_paper('gaussian', 10)
    y = block(x).detach()
    x_hat, info = block.inverse(y, strict=False)
    error = max_token_norm(x_hat - x)
    wrong = info.converged & (error > 1)
    assert wrong.any() and (info.residual[wrong] < 1e-4).all() and info.error_bound.isnan().all()


@pytest.mark.parametrize('form', ['paper', 'none'])
def test_positions_need_a_softmax_and_parts_need_a_certificate(form):
    with pytest.raises(ValueError, match="position='learned' adds to the logits of a softmax, and mode='dot_product'"):
        InvNonLocal2d(8, mode='dot_product', form=form, position='learned')
    with pytest.raises(ValueError, match="neighbourhood='window' needs form='certified', 'conditional' or 'coupling'"):
        InvNonLocal2d(8, form=form, neighbourhood='window')


@pytest.mark.parametrize('form', ['paper', 'none', 'coupling', 'conditional', 'certified'])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'l2'])
def test_every_softmax_mode_takes_positions_and_pooled_keys_in_every_form(mode, form):
    torch.manual_seed(10)
    x = torch.randn(2, 8, 5, 7)
    for position in ('learned', 'quadratic'):
        for pooling in (3, (1, 2)):
            block = InvNonLocal2d(8, mode=mode, form=form, position=position, key_pooling=pooling, reduction=2)
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
    check_inverse(InvNonLocal2d(8, form='conditional', num_heads=2), torch.randn(2, 8, 6, 5))
