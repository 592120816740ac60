"""The building blocks of invertible networks against their contract."""

import pytest
import torch
import torch.multiprocessing as mp
from helpers.block_cases import BLOCKS, settled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    CertifiedAttention2d,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    MemoryFree,
    NotConvergedError,
    Split,
    Squeeze,
)
from mmseg_invattn.layers.contract import outputs
from mmseg_invattn.layers.exact_norms import flat, jacobian_norm
from mmseg_invattn.layers.testing import check_inverse, check_layer
from mmseg_invattn.ops import full_precision, max_token_norm


@pytest.mark.parametrize('name', BLOCKS)
def test_contract(name):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64) * 3 + 1
    check_layer(settled(BLOCKS[name](3).double(), x), x)


@given(
    name=st.sampled_from(sorted(BLOCKS)),
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    layout=st.sampled_from(['plain', 'channels_last', 'slice']),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=80, deadline=None)
def test_any_shape(name, batch, channels, height, width, layout, dtype):
    if name in ('squeeze', 'multi_scale'):
        height, width = 2 * height, 2 * width
    if channels == 1 and not name.startswith(('squeeze', 'act', 'conv', 'residual', 'relative')):
        with pytest.raises(ValueError, match='cannot be split in two'):
            BLOCKS[name](channels)
        return
    x = torch.randn(batch, channels, height, width * 2, dtype=dtype)
    x = x[..., ::2] if layout == 'slice' else x[..., :width]
    x = x.contiguous(memory_format=torch.channels_last) if layout == 'channels_last' else x
    block = BLOCKS[name](channels).to(dtype)
    block.train()(x)
    check_inverse(block, x)
    with torch.no_grad():
        assert block.log_abs_det(x, n_terms=2).shape == (batch,)
        torch.testing.assert_close(flat(block(x)), flat(block(x.contiguous())))


@pytest.mark.parametrize('name', BLOCKS)
def test_bad_features(name):
    block = BLOCKS[name](4)
    for shape in ((0, 4, 4, 4), (1, 4, 0, 4)):
        with pytest.raises(ValueError, match='empty feature map'):
            block(torch.zeros(shape))
        with pytest.raises(ValueError, match='empty feature map'):
            block.log_abs_det(torch.zeros(shape))
    with pytest.raises(ValueError, match='int64'):
        block(torch.zeros(1, 4, 4, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r'takes \(B, C, H, W\)'):
        block(torch.zeros(1, 4, 4))
    if name not in ('squeeze', 'multi_scale'):
        with pytest.raises(ValueError, match=r'takes \(B, C, H, W\) with C = 4'):
            block(torch.zeros(1, 2, 4, 4))
    y = [part.detach().clone() for part in outputs(block(torch.randn(2, 4, 4, 4)))]
    y[-1][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r'not finite .* per sample is \[0, 1\]'):
        block.inverse(tuple(y) if block.extra_outputs else y[0])


@pytest.mark.parametrize(
    'build, words',
    [
        (lambda: Squeeze(0), 'factor=0 is not a positive integer'),
        (lambda: Split(4, keep=4), 'keep=4 leaves an empty part of channels=4: choose 1 to 3'),
        (lambda: InvConvResidual(4, contraction=1.0), r'contraction=1.0 is outside \(0, 1\)'),
        (lambda: InvConvResidual(4, kernel_sizes=(3, 2)), 'odd numbers'),
        (lambda: InvConvResidual(4, kernel_sizes=()), 'odd numbers'),
        (lambda: InvConvResidual(4, activation='ReLU'), r"='ReLU' is unknown: choose one of \['LipSwish', 'ELU'\]"),
        (lambda: InvConvResidual(4, hidden_channels=0), 'hidden_channels=0 is not a positive integer'),
        (lambda: AdditiveCoupling(4, nn.Identity(), lipschitz=-1.0), 'lipschitz=-1.0 is not possible'),
        (lambda: AffineCoupling(4, nn.Identity(), max_log_scale=0.0), 'max_log_scale=0.0 is not a positive number'),
        (lambda: AdditiveCoupling(4, nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))), r'BatchNorm2d \(1\)'),
        (lambda: AdditiveCoupling(4, nn.Dropout(0.1)), r'Dropout \(itself\)'),
        (lambda: InvertibleSequential(), 'no layers'),
        (lambda: InvertibleSequential(Squeeze(), nn.ReLU()), 'layer 1 of InvertibleSequential is a ReLU'),
        (lambda: MemoryFree(nn.ReLU()), 'ReLU, which is not invertible'),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_squeeze_refuses_odd_sizes_and_says_what_to_pad_to():
    with pytest.raises(ValueError, match='5 x 4; .* becomes 6 x 4'):
        Squeeze(2)(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match='got 6 channels; .* multiple of 4'):
        Squeeze(2).inverse(torch.zeros(1, 6, 2, 2))


def test_split_inverse_takes_what_forward_returned():
    split = Split(5)
    trunk, latent = split(torch.randn(2, 5, 3, 3))
    assert trunk.shape[1] == 2 and latent.shape[1] == 3
    with pytest.raises(ValueError, match='got 1 tensor; it takes the 2'):
        split.inverse(trunk)
    with pytest.raises(ValueError, match=r'got a trunk of shape \(2, 3, 3, 3\)'):
        split.inverse((latent, trunk))
    with pytest.raises(ValueError, match='got 1 tensor; it takes the 2'):
        InvertibleSequential(split).inverse(trunk)
    with pytest.raises(ValueError, match='of one batch size'):
        InvertibleSequential(split).inverse((trunk, latent[:1]))


def test_coupling_refuses_a_sub_network_of_the_wrong_size():
    with pytest.raises(ValueError, match=r'AffineCoupling\(4, swap=False\) needs \(1, 4, 3, 3\)'):
        AffineCoupling(4, nn.Conv2d(2, 2, 1))(torch.randn(1, 4, 3, 3))


def test_actnorm_starts_from_the_data_once():
    torch.manual_seed(1)
    norm, x = ActNorm2d(4), torch.randn(3, 4, 5, 6) * 7 + 5
    x[:, 3] = 2.5  # a constant channel has no scale
    assert torch.equal(norm.eval()(x), x)
    y = norm.train()(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.square().mean((0, 2, 3)), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert torch.equal(norm(x * 3), norm.eval()(x * 3))  # a second batch does not move it
    other = ActNorm2d(4)
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other.train()(x * 2), norm(x * 2))


def test_conv1x1_starts_as_a_rotation():
    torch.manual_seed(2)
    conv = InvConv1x1(16).double()
    weight = conv.matrix(conv.weights())
    torch.testing.assert_close(weight @ weight.mT, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-6)
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    assert conv.log_abs_det(x).abs().max() < 1e-5


@pytest.mark.parametrize('log_s', [-88.0, -1000.0])  # 1e-38, and 0 in float64
def test_conv1x1_beyond_any_precision_says_so(log_s):
    torch.manual_seed(2)
    conv, y = InvConv1x1(3), torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        conv.log_s[1] = log_s
    with pytest.raises(NotConvergedError, match='InvConv1x1 overflows, or its error bound is too large .* for 2 of 2'):
        conv.inverse(y)
    _, info = conv.inverse(y, strict=False)
    assert not info.converged.any() and info.error_bound.isnan().all()


@pytest.mark.parametrize('scale', [0.1, 1.0, 30.0])
@pytest.mark.parametrize(
    ('kernel_sizes', 'activation'),
    [
        ((3,), 'LipSwish'),
        ((1, 1), 'LipSwish'),
        ((1, 1), 'ELU'),
        ((3, 1, 3), 'LipSwish'),
        ((3, 1, 3), 'ELU'),
        ((5,), 'LipSwish'),
    ],
)
def test_conv_residual_certificate_is_never_violated(kernel_sizes, activation, scale):
    torch.manual_seed(3)
    block = InvConvResidual(3, 4, kernel_sizes, activation=activation).double()
    with torch.no_grad():
        for conv in block.convs:
            conv.weight.mul_(10)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64) * scale
    weights = block.weights()
    measured = jacobian_norm(lambda x: block.branch(x, weights), x)
    assert 0 < measured <= block.lipschitz_bound() <= 0.9 + 1e-9


def test_conv_residual_certificate_is_attained():
    """All taps the same rotation: a pixel away from the border meets the bound."""
    block = InvConvResidual(3, kernel_sizes=(3,)).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    with torch.no_grad():
        block.convs[0].weight.copy_(rotation[:, :, None, None].expand(3, 3, 3, 3))
    weights = block.weights()
    measured = jacobian_norm(lambda x: block.branch(x, weights), torch.randn(1, 3, 3, 3, dtype=torch.float64))
    assert 0.95 * 0.9 <= measured <= block.lipschitz_bound()


def test_small_weights_of_a_conv_residual_stay_as_they_are():
    block = InvConvResidual(3, kernel_sizes=(3,))
    with torch.no_grad():
        block.convs[0].weight.mul_(1e-3)
    assert torch.equal(block.weights().convs[0][0], block.convs[0].weight)


def test_bound_holds_where_the_branch_almost_cancels_the_input():
    """y = (1 - c) x is small and the rounding is that of x."""
    torch.manual_seed(4)
    for contraction in (0.9, 0.99, 0.999):
        block = InvConvResidual(8, kernel_sizes=(1,), contraction=contraction)
        with torch.no_grad():
            block.convs[0].weight.copy_(-2 * torch.eye(8)[:, :, None, None])
            block.convs[0].bias.zero_()
            x = torch.randn(16, 8, 1, 1)
            x_hat, info = block.inverse(block(x), max_iter=1000)
        assert (max_token_norm(x_hat - x) <= info.error_bound).all()


class AlmostOne(InvConvResidual):
    """A contraction so near 1 that the bound, rounded up, reaches it."""

    def branch_bound(self, weights, n):
        return 1.0


def test_bound_of_one_certifies_nothing():
    torch.manual_seed(4)
    block, x = AlmostOne(2), torch.randn(2, 2, 3, 3)
    with torch.no_grad():
        x_hat, info = block.inverse(block(x), strict=False)
    assert (
        info.error_bound.isnan().all()
        and not info.converged.any()
        and block.bi_lipschitz_bound() == (2.0, float('inf'))
    )
    assert block.log_abs_det_error_bound(x) is None
    torch.testing.assert_close(x_hat, x)


def _saved_block() -> InvertibleSequential:
    options = dict(mode='l2', reduction=1, num_heads=2, position='quadratic', sharpness='learned')
    return InvertibleSequential(BLOCKS['residual_sequence'](4), CertifiedAttention2d(4, **options)).double()


def _invert_saved(rank: int, folder: str) -> None:
    block = _saved_block()
    block.load_state_dict(torch.load(f'{folder}/state.pt', weights_only=True))
    torch.save(block.inverse(torch.load(f'{folder}/y.pt', weights_only=True))[0], f'{folder}/x.pt')


def test_save_load_invert_in_a_new_process(tmp_path):
    torch.manual_seed(13)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    block = settled(_saved_block(), x)
    y = block(x).detach()
    torch.save(block.state_dict(), tmp_path / 'state.pt')
    torch.save(y, tmp_path / 'y.pt')
    mp.spawn(_invert_saved, args=(str(tmp_path),))
    assert torch.equal(torch.load(tmp_path / 'x.pt', weights_only=True), block.inverse(y)[0])


@pytest.mark.parametrize('name', BLOCKS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_inverse_of_what_autocast_made(name, dtype):
    """Forward under autocast and inverse without it are the same map; half precision comes back in float32."""
    torch.manual_seed(10)
    x = torch.randn(2, 4, 4, 4).to(dtype)
    block = settled(BLOCKS[name](4), x.float())
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        y = block(x)
    # behind several layers the rounding of bfloat16 may leave a bound that says nothing of x, which is no convergence
    x_hat, info = block.inverse(y, strict=dtype == torch.float32)
    assert x_hat.dtype == torch.float32 and (info.converged | (info.error_bound > 0.5 * max_token_norm(x_hat))).all()
    error = max_token_norm(x_hat - x.float())
    if info.error_bound.isnan().all():
        assert block.bi_lipschitz_bound()[1] == float('inf')
        assert (
            error
            <= 1e3
            * torch.finfo(dtype).eps
            * flat(y.float() if torch.is_tensor(y) else tuple(part.float() for part in y)).norm(dim=1)
        ).all()
    else:
        assert (error <= info.error_bound).all()


def test_full_precision_switches_tf32_off_and_back():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        with full_precision(torch.device('cuda')):
            assert not matmul.allow_tf32 and not cudnn.allow_tf32
        assert matmul.allow_tf32 and cudnn.allow_tf32
        with pytest.raises(KeyError), full_precision(torch.device('cuda')):
            raise KeyError
        assert matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
