"""Heads, sharpness, positions, pooled keys and neighbourhoods, in the blocks that use them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_invattn.layers import FORMS, CertifiedAttention2d, ConditionalAttention2d, PaperAttention2d
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.position import LearnedPosition, QuadraticPosition
from mmseg_invattn.layers.testing import check_inverse, check_layer
from mmseg_invattn.ops import to_ball, twice_differentiable
from mmseg_invattn.ops.attention import neighbourhood_mask, pixel_grid, pool_tokens

CONFIGS = [
    dict(heads='shared', num_heads=2),
    dict(bias=False),
    dict(bias=False, num_heads=2),
    dict(sharpness='learned'),
    dict(sharpness='learned', num_heads=2),
    dict(sharpness='log_n'),
    dict(position='learned', num_heads=2),
    dict(position='quadratic'),
    dict(key_pooling=2),
    dict(key_pooling=(1, 2)),
    dict(neighbourhood='criss_cross'),
    dict(neighbourhood='window', window_size=2),
    dict(neighbourhood='window', window_size=3, window_shift=1),
    dict(neighbourhood='criss_cross', position='learned', heads='shared', num_heads=2),
    dict(neighbourhood='window', window_size=2, position='quadratic', num_heads=2),
    dict(reduction=4),
]


def pulled(block):
    """Biases and tables away from 0, so that they matter."""
    for name, parameter in block.named_parameters():
        if 'bias' in name or 'position' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.cases(8)
@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_contract(config):
    torch.manual_seed(0)
    size = (3, 4) if config.keys() & {'neighbourhood', 'key_pooling'} else (2, 3)  # exact Jacobians are formed
    x = torch.randn(2, 8, *size, dtype=torch.float64) * 3 + 1
    block = pulled(CertifiedAttention2d(8, **config).double())
    block.train()(x)
    check_layer(block, x)


@pytest.mark.parametrize('mode', MODES)
def test_double_backward(mode):
    """The log-determinant's gradient differentiates twice."""
    torch.manual_seed(1)
    block = CertifiedAttention2d(4, mode=mode).double()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(block, x)


@pytest.mark.parametrize(
    'options',
    [
        dict(neighbourhood='criss_cross'),
        dict(neighbourhood='window', window_size=3),
        dict(neighbourhood='window', window_size=4, window_shift=2),
    ],
    ids=str,
)
@pytest.mark.parametrize('position', [None, 'learned', 'quadratic'])
@pytest.mark.parametrize('mode', MODES)
def test_neighbourhood_is_full_attention_under_its_mask(mode, position, options):
    torch.manual_seed(2)
    size = (5, 6)
    block = CertifiedAttention2d(4, mode=mode, position=position, num_heads=2, **options)
    attention = pulled(block.double()).attention
    tokens, values = torch.randn(2, 2, 30, 2, dtype=torch.float64), torch.randn(2, 2, 30, 3, dtype=torch.float64)
    scores = attention()
    mask = neighbourhood_mask(
        options['neighbourhood'], size, options.get('window_size', 1), options.get('window_shift', 0)
    )
    beta = torch.zeros(2, 30, 30, dtype=torch.float64)
    if position:
        grid = pixel_grid(size, tokens)
        beta = attention.position(grid, grid)
    dense = attention.mode.attend(
        *attention.mode.project(scores, tokens, tokens), values, beta.masked_fill(~mask, -math.inf)
    )
    mix = attention.mixer(scores, tokens, size, attention.logits(size, tokens))
    torch.testing.assert_close(mix(values), dense, rtol=1e-9, atol=1e-11)


def test_learned_positions_clip_and_interpolate():
    torch.manual_seed(3)
    position = LearnedPosition(2, size=3)  # offsets -2 ... 2
    torch.nn.init.normal_(position.row), torch.nn.init.normal_(position.column)
    query = torch.zeros(1, 2)
    key = torch.tensor([[0.0, 0.0], [2, -1], [-2, 1], [7, -9], [0.25, 0], [1.5, 0]])
    row, column = position.row.detach(), position.column.detach()
    expected = torch.stack(
        [
            row[:, 2] + column[:, 2],
            row[:, 4] + column[:, 1],
            row[:, 0] + column[:, 3],
            row[:, 4] + column[:, 0],
            0.75 * row[:, 2] + 0.25 * row[:, 3] + column[:, 2],
            (row[:, 3] + row[:, 4]) / 2 + column[:, 2],
        ],
        1,
    )
    torch.testing.assert_close(position(query, key)[:, 0], expected)


def test_quadratic_positions_look_where_their_centre_is():
    position = QuadraticPosition(3)
    with torch.no_grad():
        position.centre.copy_(torch.tensor([[0.0, 0.0], [1, 2], [-2, 0]]))
        position.log_alpha.fill_(math.log(20.0))
    grid = pixel_grid((7, 7), torch.zeros(1))
    p = position(grid, grid).softmax(-1)
    centre = 3 * 7 + 3
    for head, target in enumerate((centre, centre + 7 + 2, centre - 14)):
        assert p[head, centre].argmax() == target and p[head, centre].max() > 0.99


def test_position_logits_change_the_output_and_not_the_bound():
    torch.manual_seed(4)
    block = CertifiedAttention2d(8, position='quadratic', num_heads=2).double()
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    before, bound = block(x), block.lipschitz_bound()  # once the normalisation has started
    with torch.no_grad():
        block.attention.position.log_alpha.add_(3)
    assert (block(x) - before).abs().max() > 1e-3 and block.lipschitz_bound() == bound


def test_pooled_keys_are_attention_over_the_means():
    torch.manual_seed(5)
    attention = CertifiedAttention2d(4, key_pooling=(1, 2), position='quadratic').double().attention
    tokens, values = torch.randn(1, 1, 20, 4, dtype=torch.float64), torch.randn(1, 1, 20, 3, dtype=torch.float64)
    scores, size, bins = attention(), (4, 5), (1, 2)
    keys, means = pool_tokens(tokens, size, bins), pool_tokens(values, size, bins)
    assert keys.shape == (1, 1, 5, 4)
    beta = attention.position(pixel_grid(size, tokens), pixel_grid(size, tokens, bins))
    q, k = attention.mode.project(scores, tokens, keys)
    mix = attention.mixer(scores, tokens, size, attention.logits(size, tokens))
    torch.testing.assert_close(mix(values), (q @ k.mT + beta).softmax(-1) @ means)


def test_sharpness_log_n_lets_one_token_hold_half_of_the_weight():
    torch.manual_seed(6)
    block = CertifiedAttention2d(4, mode='gaussian', sharpness='log_n', reduction=1).double()
    for n in (16, 256, 4096):
        scores, gain = block._at(block.weights(), n)
        assert scores.temperature.item() == pytest.approx(math.log(n) / 2)
        # One key at the query, the others opposite: e^s against (n - 1) e^-s.
        tokens = -torch.ones(1, 1, n, 4, dtype=torch.float64) / 2
        tokens[0, 0, 0] = 0.5
        mix = block.attention.mixer(scores, tokens, (1, n))
        share = mix(torch.eye(n, dtype=torch.float64)[None, None, :, :1])[0, 0, 0, 0]
        assert share.item() == pytest.approx(n / (2 * n - 1), rel=1e-6)
        # Gram iteration is above a norm by most where all singular values are alike, as they are at the start
        assert 0.89 < block.lipschitz_bound(n) <= 0.9
    assert block.lipschitz_bound() >= max(block.lipschitz_bound(n) for n in (1, 2, 16, 10**9))


def test_shared_heads_pay_and_grouped_heads_do_not():
    """Equal heads that write to orthogonal channels: the joint bound is sqrt(H), the triangle inequality H."""
    torch.manual_seed(7)
    grouped = CertifiedAttention2d(8, num_heads=4, sharpness=1.0, reduction=1).double()
    gain = grouped._at(grouped.weights(), 9)[1] * grouped.weights().norms.effective
    torch.testing.assert_close(gain, torch.full_like(gain, 0.9 / (1 + 2**0.5)), rtol=0.02, atol=0)
    shared = CertifiedAttention2d(8, num_heads=4, sharpness=1.0, reduction=1, heads='shared', bias=False).double()
    with torch.no_grad():
        shared.value.weight.copy_(torch.eye(8).reshape(4, 2, 8))
        shared.out.weight.copy_(torch.eye(8).reshape(4, 2, 8).mT)
    gain = shared._at(shared.weights(), 9)[1]
    torch.testing.assert_close(gain, torch.full_like(gain, 0.9 / (1 + 2**0.5) / 2), rtol=0.02, atol=0)


def test_saturation_counts_the_tokens_at_the_rim():
    for form in (CertifiedAttention2d, ConditionalAttention2d):
        block = form(8).double()
        x = torch.zeros(2, 8, 2, 4, dtype=torch.float64)
        x[0, 4:, 0, :3] = 100.0
        assert block.saturation(x).tolist() == [3 / 8, 0]
        block.train()
        block.saturation(x)
        assert not block.norm.initialised  # a report does not set the normalisation
    assert to_ball(torch.tensor([[2.1, 0.0]])).norm() > 0.9 > to_ball(torch.tensor([[2.0, 0.0]])).norm()
    assert not any(hasattr(FORMS[form], 'saturation') for form in ('coupling', 'paper', 'none'))  # they have no ball


def test_windows_cost_no_more_pixels_than_they_hold():
    """A change of one pixel stays within its window."""
    block = CertifiedAttention2d(4, neighbourhood='window', window_size=2)
    x = torch.randn(1, 4, 6, 6)
    moved = x.clone()
    moved[0, :, 0, 0] += 1
    changed = (block(x) != block(moved)).any(1)[0].nonzero().tolist()
    assert all(y < 2 and x < 2 for y, x in changed) and len(changed) == 4


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(heads='both'), "heads='both' is unknown: choose one of 'grouped', 'shared'"),
        (dict(position='sine'), "position='sine' is unknown"),
        (dict(neighbourhood='disc'), "neighbourhood='disc' is unknown"),
        (dict(sharpness='high'), "sharpness='high' must be a positive number such as 2.0, 'learned' or 'log_n'"),
        (dict(sharpness=float('nan')), 'sharpness=nan must be a positive number'),
        (dict(key_pooling=0), 'key_pooling=0 is neither a stride nor pyramid bins'),
        (dict(key_pooling=(1, 'two')), r'key_pooling=\(1, \'two\'\) is neither'),
        (dict(key_pooling=()), r'key_pooling=\(\) is neither'),
        (dict(key_pooling=2, neighbourhood='window'), "neighbourhood='window' attends only to a part of it"),
        (
            dict(neighbourhood='window', window_size=4, window_shift=4),
            r'window_shift=4 must be at least 0 and less than window_size=4',
        ),
    ],
)
def test_bad_arguments(arguments, words):
    for form in (CertifiedAttention2d, ConditionalAttention2d):
        with pytest.raises(ValueError, match=words):
            form(8, **arguments)
    with pytest.raises(ValueError, match="gamma='matrix' is unknown"):
        PaperAttention2d(8, gamma='matrix')


@given(
    data=st.data(),
    mode=st.sampled_from(sorted(MODES)),
    form=st.sampled_from(['certified', 'conditional']),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    batch=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_any_combination_inverts(data, mode, form, height, width, batch):
    parts = data.draw(
        st.sampled_from(
            [
                dict(),
                dict(key_pooling=2),
                dict(key_pooling=(1, 3)),
                dict(neighbourhood='criss_cross'),
                dict(neighbourhood='window', window_size=3, window_shift=2),
            ]
        )
    )
    options = dict(
        data.draw(st.sampled_from([dict(), dict(num_heads=2), dict(num_heads=2, heads='shared')])),
        sharpness=data.draw(st.sampled_from([0.1, 3.0, 'learned', 'log_n'])),
        position=data.draw(st.sampled_from([None, 'learned', 'quadratic'])),
    )
    x = torch.randn(batch, 4, height, width * 2)[..., ::2]
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    check_inverse(FORMS[form](4, mode=mode, reduction=1, **options, **parts), x.contiguous(memory_format=layout))


@pytest.mark.parametrize('mode', MODES)
def test_single_pixel_single_channel_and_zero_input(mode):
    block = pulled(CertifiedAttention2d(1, reduction=1, mode=mode))
    check_inverse(block, torch.randn(2, 1, 1, 1))
    x_hat, info = block.inverse(torch.zeros(1, 1, 2, 2))  # the branch is not 0 there: it has a bias
    assert info.converged.all() and block(x_hat).abs().max() < 1e-5
