"""Self-attention with relative encodings: its evaluations agree, it moves with the image, its gradients are right."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_invattn.layers import RelativeSelfAttention2d
from mmseg_invattn.layers.convolution.encoding import QuadraticEncoding
from mmseg_invattn.ops.attention import separable_attention, separable_weights_dense

KINDS = {
    'isotropic': dict(),
    'axis': dict(covariance='axis'),
    'full': dict(covariance='full'),
    'learned': dict(encoding='learned_2d', position_size=4, position_channels=6),
    'content': dict(content='only', key_channels=3),
    'quadratic+content': dict(content='both', key_channels=3),
    'full+content': dict(covariance='full', content='both', key_channels=3),
    'learned+content': dict(encoding='learned_2d', position_size=4, position_channels=6, content='both'),
}
POSITION_ONLY = ['isotropic', 'axis', 'full', 'learned']
MORE = {
    'plain': dict(),
    'padded': dict(padding=(1, 2)),
    'strided': dict(stride=2),
    'windows': dict(window=3),
    'shifted windows': dict(window=3, window_shift=1, stride=2),
    'values': dict(head_channels=5),
    'groups': dict(groups=2),
    'padded, strided values': dict(head_channels=5, padding=1, stride=3),
}


def build(kind: str, **more) -> RelativeSelfAttention2d:
    torch.manual_seed(0)
    layer = RelativeSelfAttention2d(4, 6, 3, **KINDS[kind], **more).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return layer


def dense(layer: RelativeSelfAttention2d, x: Tensor) -> Tensor:
    """The equation at the head of the file, from the map P."""
    v = x[:, None] if layer.value is None else layer.value(x).unflatten(1, (layer.num_heads, -1))
    mixed = torch.einsum(
        'bgnm,bgcm->bgcn',
        *(t.expand(len(x), layer.num_heads, -1, -1) for t in (layer.attention_probabilities(x), v.flatten(3))),
    )
    weight = layer.weight
    if layer.groups > 1:
        weight = torch.stack([torch.block_diag(*tap.unflatten(0, (layer.groups, -1))) for tap in weight.unbind(1)], 1)
    out = torch.einsum('bgcn,ogc->bon', mixed, weight) + layer.bias[:, None]
    return out.unflatten(2, tuple(-(-side // layer.stride) for side in x.shape[2:]))


@pytest.mark.parametrize('more', MORE)
@pytest.mark.parametrize('kind', KINDS)
def test_efficient_evaluation_is_the_dense_one(kind, more):
    layer = build(kind, **MORE[more])
    for size in ((5, 7), (1, 4), (9, 3), (6, 3)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(layer(x), dense(layer, x), rtol=1e-12, atol=1e-12)
        p = layer.attention_probabilities(x)
        if 'padding' not in MORE[more]:
            torch.testing.assert_close(p.sum(-1), torch.ones_like(p.sum(-1)))


@pytest.mark.cases(5)
@pytest.mark.parametrize('kind', KINDS)
def test_gradients(kind):
    layer = build(kind, window=2) if kind == 'full' else build(kind)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    layer(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in parameters)


@pytest.mark.parametrize('kind', POSITION_ONLY)
def test_kernels_agree_in_single_precision(kind):
    """As a fraction of the largest output, on a map where the N x N map has 2 million entries."""
    layer, x = build(kind).float(), torch.randn(1, 4, 32, 48)
    if not hasattr(layer.mixing.encoding, 'root'):
        layer = RelativeSelfAttention2d(4, 6, 3, encoding='learned_2d')
    wanted = dense(layer.double(), x.double())
    assert (layer.float()(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize('kind', ['isotropic', 'axis', 'full'])
def test_translation_moves_the_output_on_the_interior(kind):
    layer = build(kind)
    with torch.no_grad():
        layer.mixing.encoding.centre.clamp_(-2, 2)
        root = layer.mixing.encoding.root
        root.copy_(torch.eye(2).expand_as(root) * 2 + 0.3 if kind == 'full' else root.clamp(1.7, 2.3))
    x = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    moved = x.roll((3, -2), (2, 3))
    inside = (..., slice(14, -14), slice(14, -14))
    torch.testing.assert_close(layer(moved)[inside], layer(x).roll((3, -2), (2, 3))[inside], rtol=0, atol=1e-12)


def test_position_only_attention_is_linear_and_the_same_for_every_image():
    layer = build('learned')
    a, b = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64)
    zero = layer(torch.zeros_like(a))
    torch.testing.assert_close(layer(2 * a - b) - zero, 2 * (layer(a) - zero) - (layer(b) - zero))


def test_separable_kernel_is_its_dense_reference():
    torch.manual_seed(1)
    row, column = torch.rand(3, 4, 5).softmax(-1), torch.rand(3, 2, 7).softmax(-1)
    for groups in (1, 3):
        v = torch.randn(2, groups, 6, 5, 7)
        wanted = v.flatten(3) @ separable_weights_dense(row, column).mT
        torch.testing.assert_close(separable_attention(row, column, v).flatten(3), wanted)


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation inside returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor))]
        )
        return out


@pytest.mark.parametrize(
    'kind, window', [('isotropic', None), ('learned', None), ('isotropic', 8), ('full', 8), ('learned+content', 8)]
)
def test_no_map_of_all_pixels_at_high_resolution(kind, window):
    """The features of all heads at the stride 4 of a 512 x 1024 image, or as many windows of 64 x 64 weights."""
    heads, channels, pixels = 2, 4, 128 * 256
    layer = RelativeSelfAttention2d(channels, num_heads=heads, window=window, **KINDS[kind])
    with Largest() as largest:
        layer(torch.zeros(1, channels, 128, 256)).sum().backward()
    # 8 channels at least: the fused kernels fill up to that many
    assert largest.numel <= pixels * heads * (8 if window is None else window**2)


def test_full_covariance_of_one_axis_is_the_axis_form():
    torch.manual_seed(2)
    full, axis = QuadraticEncoding(3, 'full'), QuadraticEncoding(3, 'axis')
    with torch.no_grad():
        axis.centre.copy_(full.centre)
        full.root.copy_(torch.diag_embed(axis.root))
    grid = torch.tensor(list(itertools.product(range(3), range(4))), dtype=torch.float32)
    torch.testing.assert_close(full(grid, grid), axis(grid, grid))
    torch.testing.assert_close(full.precision(), axis.precision())


def test_logits_keep_their_precision_far_away():
    """The square of the difference, not the expanded form, which is off by 0.1 here."""
    encoding = QuadraticEncoding(1, 'isotropic')
    with torch.no_grad():
        encoding.centre.fill_(2000.0)
        encoding.root.fill_(10.0)
    key = torch.tensor([[2000.0, 2001.0], [2000.25, 2000.0]])
    wanted = torch.tensor([[[-50.0, -3.125]]])
    assert torch.equal(encoding(torch.zeros(1, 2), key), wanted)


def test_dropout_is_of_training_alone():
    layer, x = build('isotropic', dropout=0.5), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    assert not torch.allclose(layer.train()(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), dense(layer, x))
    torch.manual_seed(0)
    mean = torch.stack([layer.train()(x) for _ in range(400)]).mean(0)
    assert (mean - layer.eval()(x)).abs().mean() < 0.1 * mean.std()


def test_half_precision_takes_its_softmax_in_single():
    layer = build('isotropic').to(torch.bfloat16)
    assert layer.mixing.weights((4, 5))[0].dtype == torch.float32
    assert layer(torch.randn(1, 4, 4, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(encoding='cubic'), "encoding='cubic' is unknown"),
        (dict(covariance='round'), "covariance='round' is unknown"),
        (dict(content='some'), "content='some' is unknown"),
        (dict(num_heads=0), 'num_heads=0 is not a positive integer'),
        (dict(window=0), 'window=0 is not a positive integer'),
        (dict(head_channels=-1), 'head_channels=-1 is not a positive integer'),
        (dict(groups=3), 'groups=3 must divide in_channels=4'),
        (dict(groups=2, head_channels=4), r'head_channels=None \(got 4'),
        (dict(padding=(1, 2, 3)), r'padding=\(1, 2, 3\)'),
        (dict(padding=1, window=4), 'padding=.* belongs to attention over the whole map'),
        (dict(window=4, window_shift=4), 'window_shift=4 must be'),
        (dict(window_shift=1), 'window_shift=1 must be'),
        (dict(dropout=1.0), r'dropout=1.0 must be at least 0 and less than 1'),
        (
            dict(position_size=4),
            "position_size=4 has no effect with encoding='quadratic': it belongs to encoding='learned",
        ),
        (dict(position_channels=4), "position_channels=4 has no effect with encoding='quadratic'"),
        (dict(encoding='learned_2d', covariance='axis'), "covariance='axis' has no effect with encoding='learned_2d'"),
        (dict(encoding='learned_2d', position_size=0), 'position_size=0 is not a positive integer'),
        (
            dict(key_channels=4),
            "key_channels=4 has no effect with content='none': it belongs to content='only' or 'both'",
        ),
        (dict(content='only', encoding='quadratic'), "encoding='quadratic' has no effect with content='only'"),
        (dict(content='only', position_size=4), "position_size=4 has no effect with content='only'"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        RelativeSelfAttention2d(4, **arguments)


def test_bad_features():
    with pytest.raises(ValueError, match='C = 4'):
        RelativeSelfAttention2d(4)(torch.zeros(1, 3, 4, 4))
