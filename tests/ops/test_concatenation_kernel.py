"""The O(N log N) concatenation kernel against its dense references."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mmseg_invattn.ops import attention as ops
from mmseg_invattn.ops import twice_differentiable
from mmseg_invattn.ops.attention import sorted_concatenation
from mmseg_invattn.ops.attention.sorted_sum import CHUNK, decayed_sums


def elu1_dense(alpha, gamma, v):
    """By logarithms of the weights: finite for any scores."""
    return ops.concatenation_log_weights(alpha, gamma).softmax(-1) @ v


KERNELS = {
    'elu1': (ops.concatenation_attention, elu1_dense),
    'relu': (ops.mean_concatenation_attention, ops.mean_concatenation_attention_dense),
    'elu': (ops.elu_concatenation_attention, ops.elu_concatenation_attention_dense),
}


def inputs(n, m, size=4, scale=1.0, shape=(2, 3), dtype=torch.float64):
    alpha, gamma = (torch.randn(*shape, count, 1, dtype=dtype) * scale for count in (n, m))
    return alpha.requires_grad_(), gamma.requires_grad_(), torch.randn(*shape, m, size, dtype=dtype, requires_grad=True)


def gradients(fn, args, weight):
    return torch.autograd.grad((fn(*args) * weight).sum(), args)


@pytest.mark.parametrize('scale', [1e-3, 1.0, 30.0])
@pytest.mark.parametrize('n, m', [(1, 1), (1, 9), (9, 1), (7, 5), (33, 64), (300, 517)])
@pytest.mark.parametrize('kernel', KERNELS)
def test_values_and_gradients_are_the_dense_ones(kernel, n, m, scale):
    torch.manual_seed(0)
    fast, dense = KERNELS[kernel]
    args = inputs(n, m, scale=scale)
    if kernel == 'elu':  # the paper's normaliser away from 0: there the result is as uncertain as its inputs
        args = (args[0], (args[1].detach().abs() + 3 * scale).requires_grad_(), args[2])
    expected = dense(*args)
    torch.testing.assert_close(fast(*args), expected, rtol=1e-9, atol=1e-11)
    weight = torch.randn_like(expected)
    # Gradients to the scores are differences of terms f' / z: about 1 / scale in form paper, where f vanishes at 0.
    term = 1 + 1 / scale if kernel == 'elu' else 1
    for ours, theirs in zip(gradients(fast, args, weight), gradients(dense, args, weight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * term)


@pytest.mark.parametrize('kernel', KERNELS)
def test_gradcheck(kernel):
    torch.manual_seed(1)
    fast = KERNELS[kernel][0]
    args = inputs(5, 6, size=2, shape=(1, 2))
    if kernel == 'elu':
        args = (args[0], (args[1].detach() + 4).requires_grad_(), args[2])
    assert torch.autograd.gradcheck(fast, args)
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(fast, args)
    for wanted in args:  # elsewhere a second derivative is refused, not wrong
        with pytest.raises(RuntimeError, match='has no second derivative: run the forward pass inside'):
            torch.autograd.grad(fast(*args).square().sum(), wanted, create_graph=True)


@pytest.mark.parametrize('wanted', [(0,), (1,), (2,), (1, 2), (0, 2)])
@pytest.mark.parametrize('kernel', KERNELS)
def test_gradients_of_some_inputs(kernel, wanted):
    torch.manual_seed(2)
    fast = KERNELS[kernel][0]
    args = inputs(20, 17)
    every = torch.autograd.grad(fast(*args).sum(), args)
    some = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(args)]
    fast(*some).sum().backward()
    for i, t in enumerate(some):
        assert t.grad is None if i not in wanted else torch.equal(t.grad, every[i])


def scores(case, n):
    """Numbers of the queries and the keys, float32."""
    alpha, gamma = torch.randn(2, 1, 1, n, 1)
    if case == 'ties':
        gamma = (gamma * 3).round()
        return gamma.flip(2).neg(), gamma  # every score alpha_i + gamma_j takes 0, 1, -1 ... exactly
    if case in ('positive', 'negative'):
        sign = 1 if case == 'positive' else -1
        return alpha.abs() * 100 * sign, gamma.abs() * 100 * sign
    if case == 'outliers':  # a few numbers far from all others, on either side
        alpha[..., :3, :], gamma[..., :3, :] = 1e4, -1e4
        gamma[..., 5, :] = 2e4
        return alpha, gamma
    return alpha * float(case), gamma * float(case)


def dense_in_blocks(dense, alpha, gamma, v, weight, block=256):
    """Output and gradients in float64, some queries at a time."""
    gamma, v = (t.double().requires_grad_() for t in (gamma, v))
    out, d_alpha, d_gamma, d_v = [], [], 0, 0
    for a, w in zip(alpha.double().split(block, 2), weight.double().split(block, 2), strict=True):
        a.requires_grad_()
        o = dense(a, gamma, v)
        da, dg, dv = torch.autograd.grad(o, (a, gamma, v), w)
        out.append(o.detach())
        d_alpha.append(da)
        d_gamma, d_v = d_gamma + dg, d_v + dv
    return torch.cat(out, 2), torch.cat(d_alpha, 2), d_gamma, d_v


CASES = ['1e-3', '1', '30', '300', 'ties', 'positive', 'negative', 'outliers']


def check_float32(kernel, case, n):
    torch.manual_seed(3)
    fast, dense = KERNELS[kernel]
    alpha, gamma = scores(case, n)
    v, weight = torch.randn(2, 1, 1, n, 6)
    args = [t.requires_grad_() for t in (alpha, gamma, v)]
    out = fast(*args)
    ours = (out.detach(), *torch.autograd.grad(out, args, weight))
    theirs = dense_in_blocks(dense, *(t.detach() for t in args), weight)
    for name, a, b in zip(('out', 'alpha', 'gamma', 'v'), ours, theirs, strict=True):
        assert a.dtype == torch.float32 and a.isfinite().all()
        # Outputs by the largest of their row, gradients by the largest of all: single ones may be 0. So may all that
        # belong to alpha, where all scores are negative: differences of terms of size 1.
        scale = b.abs().amax(-1, keepdim=True).clamp(min=1e-30) if name == 'out' else b.abs().max().clamp(min=1e-6)
        error = float(((a - b).abs() / scale).max())
        assert error < 1e-5, (name, error)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('kernel', ['elu1', 'relu'])
def test_float32_is_the_float64_result(kernel, case):
    check_float32(kernel, case, 1500)


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('kernel', ['elu1', 'relu'])
def test_float32_is_the_float64_result_at_full_size(kernel, case):
    check_float32(kernel, case, 16384)


def test_far_below_zero_the_scores_are_a_softmax():
    """All scores near -2000, where every exp is 0 in float64: weights softmax_j(gamma_j), no gradient to alpha."""
    torch.manual_seed(4)
    args = inputs(6, 9, dtype=torch.float32)
    args = (args[0].detach().sub(1000).requires_grad_(), args[1].detach().sub(1000).requires_grad_(), args[2])
    out = ops.concatenation_attention(*args)
    expected = (args[1].mT.softmax(-1) @ args[2]).expand_as(out)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    d_alpha, d_gamma, d_v = torch.autograd.grad(out, args, weight)
    by_softmax = torch.autograd.grad(expected, args[1:], weight)
    assert d_alpha.abs().max() < 1e-6
    for ours, theirs in zip((d_gamma, d_v), by_softmax, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('points', [1, CHUNK, CHUNK + 1, CHUNK**2 + 3])
def test_decayed_sums(points):
    torch.manual_seed(5)
    p = (torch.randn(2, points, dtype=torch.float64) * torch.tensor([[1.0], [1000.0]])).sort(1)[0]
    x = torch.randn(2, 3, points, dtype=torch.float64)
    weight = (p[:, None, :] - p[:, :, None]).clamp(max=0).exp().tril()
    gaps = torch.nn.functional.pad(p.diff(dim=1), (1, 0))
    torch.testing.assert_close(decayed_sums(x, gaps), x @ weight.mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kernel', KERNELS)
def test_half_precision_comes_back_rounded_once(kernel, dtype):
    torch.manual_seed(6)
    fast = KERNELS[kernel][0]
    args = [t.detach().to(dtype) for t in inputs(40, 50)]
    args[1] = args[1].abs() + 3  # away from the zeros of the paper's normaliser
    args = [t.requires_grad_() for t in args]
    exact = fast(*(t.detach().double() for t in args))
    out = fast(*args)
    assert out.dtype == dtype and torch.equal(out, exact.to(dtype))
    grads = torch.autograd.grad(out.float().square().sum(), args)
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@pytest.mark.parametrize('kernel', KERNELS)
def test_autocast_changes_nothing(kernel):
    torch.manual_seed(7)
    fast = KERNELS[kernel][0]
    args = inputs(40, 50, dtype=torch.float32)
    out = fast(*args)
    with torch.autocast('cpu', torch.bfloat16):
        cast = fast(*args)
        assert torch.equal(cast, out)
        for ours, theirs in zip(
            torch.autograd.grad(cast.sum(), args), torch.autograd.grad(out.sum(), args), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_one_group_of_scores_serves_all_values():
    torch.manual_seed(8)
    alpha, gamma, _ = inputs(6, 7, shape=(2, 1))
    v = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(ops.concatenation_attention(alpha, gamma, v), elu1_dense(alpha, gamma, v))


@pytest.mark.parametrize('kernel', KERNELS)
def test_compiles_into_one_graph(kernel):
    """Fake tensors carry no data, so one graph also means that the host never waits for a value."""
    torch.manual_seed(9)
    fast = KERNELS[kernel][0]
    torch._dynamo.reset()
    compiled = torch.compile(fast, fullgraph=True, backend='aot_eager', dynamic=True)
    for n, m in ((40, 30), (55, 41)):
        args = inputs(n, m, dtype=torch.float32)
        expected, out = fast(*args), compiled(*args)
        torch.testing.assert_close(out, expected)
        weight = torch.randn_like(out)
        for ours, theirs in zip(
            torch.autograd.grad(out, args, weight), torch.autograd.grad(expected, args, weight), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('kernel', KERNELS)
def test_operator_is_what_it_declares(kernel):
    torch.manual_seed(10)
    alpha, gamma, v = (t.detach().flatten(0, 1).requires_grad_() for t in inputs(5, 7))
    out, *saved = sorted_concatenation._forward(alpha, gamma, v, kernel, True)
    torch.library.opcheck(sorted_concatenation._forward, (alpha, gamma, v, kernel, True))
    detached = [t.detach() for t in (torch.randn_like(out), alpha, gamma, v, out, *saved)]
    torch.library.opcheck(sorted_concatenation._backward, (*detached, kernel, True, True, True))


GROWTH = """
import json, resource, torch
from mmseg_invattn.ops.attention import concatenation_attention
torch.set_num_threads(1)

def held():
    with open('/proc/self/statm') as f:
        return int(f.read().split()[1]) * resource.getpagesize()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

ballast, extra = torch.ones((max(peak() - held(), 0) >> 3) + 2**20, dtype=torch.float64), []  # peak of the imports
for n in (1024, 16384, 65536):
    alpha, gamma = (torch.randn(1, 1, n, 1, requires_grad=True) for _ in range(2))
    v, weight = torch.randn(1, 1, n, 12, requires_grad=True), torch.randn(1, 1, n, 12)
    before = held()
    torch.autograd.grad(concatenation_attention(alpha, gamma, v), (alpha, gamma, v), weight)
    extra.append(peak() - before)
print(json.dumps(extra))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_memory_is_linear():
    """Forward and backward in a fresh process: bytes that the peak stands above what was held before, N then 4 N."""
    # Blocks go back to the system when they are freed, so that what is held is what is used.
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536')
    out = subprocess.run([sys.executable, '-c', GROWTH], check=True, capture_output=True, text=True, env=env).stdout
    _, once, four = json.loads(out.splitlines()[-1])
    assert 16384 * 12 * 4 < once < 16384**2 * 4 / 50, once  # more than one output, far less than the N x N map
    assert four < 4.5 * once, (once, four)
