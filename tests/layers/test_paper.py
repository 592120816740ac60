"""Form paper against a plain reading of its formulas, with the authors' names, and how its inverse fails."""

import pytest
import torch

from mmseg_invattn.layers import NotConvergedError, PaperAttention2d, convert_paper_weights
from mmseg_invattn.layers.attention.linear import GroupedLinear
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.soft_spectral_norm import SoftSpectralLinear
from mmseg_invattn.ops import max_token_norm


def reference_paper(state, x, mode, convolution):
    """``x + Gamma(V a)``, ``a_ij = f_ij / (1.5 sum_i f_ij)``, with the names of the authors' state dict."""
    batch, channels, height, width = x.shape
    coefficients = dict(
        query_conv=0.9, key_conv=0.9, concat_conv=0.9, value_conv=0.5 if mode == 'dot_product' else 0.9, gamma=0.9
    )

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
        norm = SoftSpectralLinear(GroupedLinear(columns, rows), 0.9).double()
        norm.weight.data.copy_(weight)
        norm.iterate()
        state |= {
            f'{name}.weight_orig': weight[..., None, None],
            f'{name}.weight_u': norm.u[0],
            f'{name}.weight_v': norm.v[0],
            f'{name}.weight_sigma': torch.ones(1),
        }
        if name != 'concat_conv':
            state[f'{name}.bias'] = torch.randn(rows, dtype=torch.float64) * 0.3
    return state


@pytest.mark.parametrize('convolution', [True, False])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'])
def test_paper_is_its_formulas_with_the_authors_weights(mode, convolution):
    torch.manual_seed(7)
    state = authors_state(mode, 12, convolution)
    block = PaperAttention2d(12, reduction=4, mode=mode, gamma='conv' if convolution else 'scalar').double()
    block.load_state_dict(convert_paper_weights({f'res_branch.{k}': v for k, v in state.items()}))
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64) * 0.5
    torch.testing.assert_close(block.eval()(x), reference_paper(state, x, mode, convolution), rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="'backbone.conv1.weight' is not a tensor of the authors"):
        convert_paper_weights({'backbone.conv1.weight': torch.zeros(1)})


@pytest.mark.parametrize('mode', MODES)
def test_paper_iterates_in_training_and_saves_its_vectors(mode):
    torch.manual_seed(8)
    block = PaperAttention2d(8, reduction=4, mode=mode)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 8, 3, 3)
    value = block.value
    u, expected = value.u.clone(), value.u[0].clone()
    block.eval()(x)
    assert torch.equal(value.u, u)
    for _ in range(5):
        right = torch.nn.functional.normalize(value.weight[0].mT @ expected, dim=0)
        expected = torch.nn.functional.normalize(value.weight[0] @ right, dim=0)
    y = block.train()(x)
    torch.testing.assert_close(value.u[0], expected)
    for _ in range(30):
        y = block(x)
    coefficient = 0.5 if mode == 'dot_product' else 0.9
    assert torch.linalg.matrix_norm(value()[0][0], 2).item() == pytest.approx(coefficient, rel=1e-3)
    y.sum().backward()
    other = PaperAttention2d(8, reduction=4, mode=mode)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other.eval()(x), block.eval()(x))
    # Soft: a weight of a smaller norm is left alone.
    with torch.no_grad():
        value.weight.mul_(1e-3)
    torch.testing.assert_close(value()[0], value.weight)


def test_paper_scalar_gamma_starts_as_the_identity():
    block = PaperAttention2d(8, gamma='scalar')
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(block(x), x)
    x_hat, info = block.inverse(x)
    assert torch.equal(x_hat, x) and info.converged.all() and info.error_bound.isnan().all()


def violent_paper(mode, scale):
    """Random weights of size 1 before normalisation, well within what training reaches."""
    torch.manual_seed(9)
    block = PaperAttention2d(12, reduction=4, mode=mode)
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
