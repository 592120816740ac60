"""Attention kernels against their dense references."""

import math

import pytest
import torch
from helpers.kernel_cases import ROW_STOCHASTIC, features

from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.modes.l2 import phi
from mmseg_invattn.ops import attention as ops


@pytest.mark.parametrize('with_logits', [False, True])
@pytest.mark.parametrize('n, m', [(1, 1), (7, 5), (33, 64)])
@pytest.mark.parametrize('kernel', ROW_STOCHASTIC)
def test_kernel_is_its_definition(kernel, n, m, with_logits):
    torch.manual_seed(0)
    fast, dense, log_weights, size = ROW_STOCHASTIC[kernel]
    q, k, v = features(n, m, size)
    logits = torch.randn(3, n, m, dtype=torch.float64) if with_logits else None
    expected = dense(q, k, v, logits)
    torch.testing.assert_close(fast(q, k, v, logits), expected, rtol=1e-10, atol=1e-12)
    by_parts = (log_weights(q, k) + (0 if logits is None else logits)).softmax(-1) @ v
    torch.testing.assert_close(by_parts, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((fast(q, k, v, logits) * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    # Rows sum to 1, so a constant value is returned unchanged.
    torch.testing.assert_close(fast(q, k, torch.ones_like(v), logits), torch.ones_like(expected))


@pytest.mark.parametrize('kernel', ROW_STOCHASTIC)
def test_extreme_scores_stay_finite(kernel):
    torch.manual_seed(1)
    fast, _, log_weights, size = ROW_STOCHASTIC[kernel]
    q, k, v = features(6, 9, size, scale=40.0, dtype=torch.float32)
    out = fast(q, k, v)
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert out.isfinite().all() and all(g.isfinite().all() for g in gradients)
    # All scores far below zero, where exp underflows: the largest still takes its share.
    if kernel in ('dot_product', 'concatenation'):
        t = fast(-torch.full_like(q, 100).abs(), -torch.full_like(k, 200).abs() if size == 1 else k.abs() + 1, v)
        assert t.isfinite().all()


def test_l2_far_from_the_origin_does_not_cancel():
    torch.manual_seed(2)
    q, k, v = (t.detach() for t in features(20, 30, 8))
    exact = ops.l2_attention_dense(q, k, v)
    moved = ops.l2_attention((q + 20).float(), (k + 20).float(), v.float())
    assert (moved - exact).abs().max() < 1e-4


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (8, 4)])
@pytest.mark.parametrize('mode', ['embedded_gaussian', 'dot_product'])
def test_criss_cross_is_its_mask(mode, size):
    torch.manual_seed(3)
    n = size[0] * size[1]
    kernel = MODES[mode]
    q, k, v = features(n, n, 5)
    row, column = (torch.randn(3, length, length, dtype=torch.float64) for length in reversed(size))
    weights = ops.criss_cross_weights(kernel.log_weights, q, k, size, row, column)
    mask = ops.neighbourhood_mask('criss_cross', size)
    y, x = (c.flatten() for c in torch.meshgrid(*map(torch.arange, size), indexing='ij'))
    beta = torch.where(y[:, None] == y, row[:, x[:, None], x], column[:, y[:, None], y])
    dense = kernel.attend(q, k, v, beta.masked_fill(~mask, -math.inf))
    torch.testing.assert_close(ops.mix_criss_cross(*weights, v), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('window, shift', [(1, 0), (3, 0), (4, 2), (16, 5)])
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (8, 4)])
def test_windows_come_back_and_hold_their_pixels(size, window, shift):
    torch.manual_seed(4)
    x = torch.randn(2, 3, size[0] * size[1], 5)
    cut = ops.to_windows(x, size, window, shift)
    assert torch.equal(ops.from_windows(cut, size, window, shift), x)
    # Pixels of the same window, and only those, share a row of the cut.
    index = torch.arange(1, x.shape[2] + 1).view(1, 1, -1, 1)
    mask = torch.zeros(x.shape[2] + 1, x.shape[2] + 1, dtype=torch.bool)
    for members in ops.to_windows(index, size, window, shift)[:, 0, :, 0]:
        mask[members[:, None], members] = True
    assert torch.equal(mask[1:, 1:], ops.neighbourhood_mask('window', size, window, shift))


@pytest.mark.parametrize('pooling', [1, 2, 3, 100, (1,), (1, 3, 6, 8)])
@pytest.mark.parametrize('size', [(1, 1), (5, 7)])
def test_pooled_keys_are_row_stochastic_means(size, pooling):
    n = size[0] * size[1]
    matrix = ops.pool_tokens(torch.eye(n, dtype=torch.float64)[None, None], size, pooling)[0, 0]
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    x = torch.randn(2, 3, n, 4, dtype=torch.float64)
    torch.testing.assert_close(ops.pool_tokens(x, size, pooling), matrix @ x)
    if isinstance(pooling, int):
        assert len(matrix) == -(-size[0] // pooling) * -(-size[1] // pooling)
    else:
        assert len(matrix) == sum(bins**2 for bins in pooling)


def test_elu_plus_one():
    t = torch.linspace(-30, 30, 201, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ops.elu1(t), torch.nn.functional.elu(t) + 1)
    torch.testing.assert_close(ops.log_elu1(t), ops.elu1(t).log())
    (slope,) = torch.autograd.grad(ops.log_elu1(t).sum(), t)
    assert (slope > 0).all() and (slope <= 1).all()


@pytest.mark.parametrize('n', [1, 2, 3, 100, 10**6])
def test_phi_solves_its_equation(n):
    assert phi(n) * math.exp(phi(n) + 1) == pytest.approx(n - 1, rel=1e-9)
