"""The theorem: a convolution as attention, to rounding, with the error that the width allows, and back."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmseg_invattn.layers import RelativeSelfAttention2d, shift_error
from mmseg_invattn.layers.convolution.conversion import offset_weights, width_for
from mmseg_invattn.ops import max_token_norm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
CASES = list(itertools.product((1, 3, 5), (1, 2), (1, 2), ('zeros', 'replicate')))


def convolution(
    kernel: int | tuple[int, int], dilation: int = 1, groups: int = 1, mode: str = 'zeros', **more
) -> nn.Conv2d:
    torch.manual_seed(0)
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(dilation * (side // 2) for side in sides)
    return nn.Conv2d(4, 6, sides, padding=padding, dilation=dilation, groups=groups, padding_mode=mode, **more)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('kernel, dilation, groups, mode', CASES)
def test_equals_the_convolution_up_to_the_border(kernel, dilation, groups, mode, dtype):
    conv = convolution(kernel, dilation, groups, mode).to(dtype)
    layer = RelativeSelfAttention2d.from_conv2d(conv)
    assert layer.num_heads == kernel**2
    x = torch.randn(2, 4, 13, 11, dtype=dtype)
    assert (layer(x) - conv(x)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    'conv',
    [
        convolution(3, stride=2),
        convolution(3, bias=False),
        convolution((1, 3)),
        convolution((5, 1), 3),
        nn.Conv2d(4, 6, 3, padding='same'),
        nn.Conv2d(4, 6, 1, padding='valid'),
    ],
)
def test_strides_and_other_shapes(conv):
    x = torch.randn(1, 4, 8, 9)
    out = RelativeSelfAttention2d.from_conv2d(conv)(x)
    assert (out - conv(x)).abs().max() <= 1e-5
    assert (RelativeSelfAttention2d.from_conv2d(conv, 46.0)(x) - conv(x)).abs().max() <= 1e-5  # the paper's width


def test_unpadded_attention_is_replicate_padding():
    conv = convolution(5, 2).double()
    conv.padding_mode = 'replicate'
    x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    layer = RelativeSelfAttention2d.from_conv2d(conv)
    assert layer.padding == (0, 0)
    replicated = nn.functional.conv2d(
        nn.functional.pad(x, (4, 4, 4, 4), mode='replicate'), conv.weight, conv.bias, dilation=2
    )
    assert (layer(x) - replicated).abs().max() <= 1e-10


def test_error_falls_as_the_theorem_says():
    """log error against width has the slope -1, and the bound of the error holds and is near."""
    conv, widths = convolution(3).double(), [4.0, 7.0, 10.0, 13.0, 16.0]
    x = torch.randn(1, 4, 24, 24, dtype=torch.float64)
    inside = (..., slice(6, -6), slice(6, -6))
    errors = []
    for width in widths:
        layer = RelativeSelfAttention2d.from_conv2d(conv, width)
        error = float(max_token_norm((layer(x) - conv(x)).detach()[inside])[0])
        norms = torch.linalg.matrix_norm(conv.weight.detach().permute(2, 3, 0, 1), 2).sum()
        assert error <= 2 * shift_error(width) * float(norms * max_token_norm(x)[0])
        errors.append(math.log(error))
    slopes = [(b - a) / 3 for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(slope + 1) < 0.02 for slope in slopes), slopes


@pytest.mark.parametrize('width', [0.05, 0.5, 4.0, 18.0, 37.0])
def test_reported_error_is_the_weight_beside_the_centre(width):
    layer = RelativeSelfAttention2d.from_conv2d(convolution(3).double(), width)
    beside = 1 - offset_weights(layer.mixing).amax((1, 2))
    assert (beside - shift_error(width)).abs().max() <= 1e-12 * max(1, layer.num_heads) + 1e-15
    if width >= 4:
        assert shift_error(width) == pytest.approx(4 * math.exp(-width), rel=0.1)


def test_default_width_is_the_rounding_of_the_dtype():
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert shift_error(width_for(dtype)) == pytest.approx(torch.finfo(dtype).eps, rel=0.01)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('kernel, dilation, groups, mode', CASES)
def test_round_trip_recovers_the_kernel(kernel, dilation, groups, mode, dtype):
    conv = convolution(kernel, dilation, groups, mode).to(dtype)
    back, error = RelativeSelfAttention2d.from_conv2d(conv).to_conv2d()
    assert error <= TOLERANCE[dtype] and back.groups == groups and back.weight.shape == conv.weight.shape
    assert back.dilation == conv.dilation or kernel == 1
    assert (back.weight - conv.weight).abs().max() <= TOLERANCE[dtype] and torch.equal(back.bias, conv.bias)
    x = torch.randn(1, 4, 9, 9, dtype=dtype)
    assert (back(x) - conv(x)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize('more', [dict(), dict(covariance='full'), dict(groups=2)])
def test_error_of_the_nearest_convolution_holds(more):
    """For heads that are shifts only in part."""
    torch.manual_seed(1)
    layer = RelativeSelfAttention2d(4, 4, 5, **more).double()
    with torch.no_grad():
        layer.mixing.encoding.centre.div_(2)
        layer.mixing.encoding.root.mul_(1.5)
    conv, error = layer.to_conv2d()
    worst = 0.0
    for size in (1, 25) * 5:  # one colour everywhere, which makes much of the weights that the taps leave out, or noise
        x = nn.functional.normalize(torch.randn(1, 4, size, size, dtype=torch.float64), dim=1).expand(-1, -1, 25, 25)
        with torch.no_grad():
            worst = max(worst, float((layer(x) - conv(x))[0, :, 12, 12].norm()))
    assert 0.1 * error < worst <= error


def test_learned_positions_that_are_a_shift_become_a_tap():
    layer = RelativeSelfAttention2d(4, 4, 1, encoding='learned_2d', position_size=3, position_channels=5)
    with torch.no_grad():
        layer.mixing.encoding.embedding.copy_(100 * torch.eye(5).expand(2, 5, 5))
        layer.mixing.encoding.reader.zero_()[:, 0, 3] = 1  # offset + 1 in rows and columns
    conv, error = layer.to_conv2d()
    assert conv.kernel_size == (3, 3) and error < 1e-5
    torch.testing.assert_close(conv.weight[..., 2, 2], layer.weight[:, 0])


@pytest.mark.parametrize(
    'conv, words',
    [
        (nn.Conv2d(4, 4, 2), r'kernel_size=\(2, 2\) is not odd'),
        (nn.Conv2d(4, 4, 3), r'padding=\(0, 0\) in mode .zeros. cannot be expressed.*padding=\(1, 1\)'),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode='circular'), "mode 'circular' cannot be expressed"),
        (nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2)), r'stride=\(1, 2\) differs'),
    ],
)
def test_what_attention_cannot_express(conv, words):
    with pytest.raises(ValueError, match=words):
        RelativeSelfAttention2d.from_conv2d(conv)


def test_bad_width_and_layers_without_a_convolution():
    with pytest.raises(ValueError, match='width=0 must be positive'):
        RelativeSelfAttention2d.from_conv2d(convolution(3), 0)
    for more in (dict(content='both'), dict(window=4), dict(head_channels=2)):
        with pytest.raises(ValueError, match='cannot be converted to a convolution'):
            RelativeSelfAttention2d(4, **more).to_conv2d()
