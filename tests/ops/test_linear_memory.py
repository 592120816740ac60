"""Attention without the N x M map: the blocked positive kernel, and softmax modes that stay in the fused one."""

import math
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.layers import FORMS
from mmseg_invattn.ops import attention as ops
from mmseg_invattn.ops import twice_differentiable
from mmseg_invattn.ops.attention import blocked_positive
from mmseg_invattn.ops.attention.positive import elu_attention, positive_attention


def features(n=300, m=77, size=5, values=4, dtype=torch.float64):
    torch.manual_seed(0)
    return tuple(
        torch.randn(2, 3, count, last, dtype=dtype, requires_grad=True)
        for count, last in ((n, size), (m, size), (m, values))
    )


def elu_dense(q, k, v):
    return elu_attention(q @ k.mT, v)


def gradients(out, inputs):
    torch.manual_seed(1)
    return torch.autograd.grad((out * torch.randn_like(out)).sum(), inputs)


def assert_same(ours, theirs, inputs, rtol=1e-9, atol=1e-11):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    for got, expected in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


@pytest.fixture(params=[1, 2**9, 3 * 64 * 77, 4 * 300 * 77, 2**20])
def block(request, monkeypatch):
    """Rows of a block: the fewest there are, a number that does not divide N, and whole samples."""
    monkeypatch.setitem(blocked_positive.BLOCK, 'cpu', request.param)


@pytest.mark.parametrize('n, m', [(1, 1), (1, 5), (5, 1), (300, 77)])
def test_blocks_are_the_dense_kernel(block, n, m):
    inputs = features(n, m)
    assert_same(ops.dot_product_attention(*inputs), ops.dot_product_attention_dense(*inputs), inputs)
    # A normaliser that all but vanishes loses digits in either: rounding is in proportion to the largest output.
    ours, theirs = ops.elu_dot_product_attention(*inputs), elu_dense(*inputs)
    assert_same(ours, theirs, inputs, rtol=1e-7, atol=1e-11 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize('shape', [(3, 300, 77), (300, 77), (2, 3, 300, 77), (2, 1, 1, 77), (1, 300, 77)])
def test_logits_of_any_shape_in_blocks(block, shape):
    inputs = features()
    beta = torch.randn(shape, dtype=torch.float64)
    beta[..., 3] = -math.inf
    beta.requires_grad_()
    assert_same(
        ops.dot_product_attention(*inputs, beta), ops.dot_product_attention_dense(*inputs, beta), (*inputs, beta)
    )


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setitem(blocked_positive.BLOCK, 'cpu', 1)
    monkeypatch.setattr(blocked_positive, 'MIN_ROWS', 2)
    inputs = features(5, 4, 3, 2)
    beta = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.dot_product_attention, (*inputs, beta))
    assert torch.autograd.gradcheck(ops.elu_dot_product_attention, inputs)


@pytest.mark.parametrize('kernel', [ops.dot_product_attention, ops.elu_dot_product_attention])
def test_one_group_of_keys_serves_all_queries(kernel):
    q, k, v = features(9, 7)
    shared = k[:, :1].detach().requires_grad_()
    assert_same(kernel(q, shared, v), kernel(q, shared.expand(-1, 3, -1, -1), v), (q, shared, v))


@pytest.mark.parametrize('with_logits', [False, True])
@pytest.mark.parametrize('low, high', [(-300, -200), (-1e4, -9e3), (-1e4, 1e4), (300, 400), (9e3, 1e4), (-300, 300)])
def test_extreme_scores(low, high, with_logits):
    """Scores are a projection onto the first channel; the reference is a softmax of log-weights in float64."""
    torch.manual_seed(0)
    scores = torch.empty(1, 2, 1, 60).uniform_(low, high)
    k = torch.cat([scores.mT, torch.zeros(1, 2, 60, 3)], -1).requires_grad_()
    q = torch.tensor([1.0, 0, 0, 0]).expand(1, 2, 50, 4).contiguous().requires_grad_()
    v = torch.randn(1, 2, 60, 4, requires_grad=True)
    beta = torch.empty(2, 50, 60).uniform_(-300, 300) if with_logits else None
    exact_inputs = tuple(x.detach().double().requires_grad_() for x in (q, k, v))
    exact = positive_attention(ops.dot_product_log_weights(*exact_inputs[:2]), exact_inputs[2], beta)
    ours = ops.dot_product_attention(q, k, v, beta)
    # A logit of size s carries a rounding error of s eps; so does the sum over the keys that is the gradient of q.
    tolerance = 4 * torch.finfo(torch.float32).eps * max(-low, high)
    assert (ours - exact).abs().max() <= tolerance * v.detach().abs().max()
    weight = torch.randn(ours.shape)
    for got, expected in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((exact * weight).sum(), exact_inputs),
        strict=True,
    ):
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize(
    'kernel, dense',
    [(ops.dot_product_attention, ops.dot_product_attention_dense), (ops.elu_dot_product_attention, elu_dense)],
)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(kernel, dense, dtype):
    q, k, v = (x.detach().abs() for x in features(40, 500, 8))  # positive scores: the paper's normaliser is far from 0
    half = tuple(x.to(dtype).requires_grad_() for x in (q, k, v))
    exact = tuple(x.detach().double().requires_grad_() for x in half)
    ours, theirs = kernel(*half), dense(*exact)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), theirs, rtol=torch.finfo(dtype).eps, atol=1e-5)
    for got, expected in zip(
        torch.autograd.grad(ours.sum(), half), torch.autograd.grad(theirs.sum(), exact), strict=True
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_autocast_does_not_round_the_sums():
    inputs = tuple(x.detach().float().requires_grad_() for x in features(40, 90))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = ops.dot_product_attention(*inputs)
        inside_gradients = gradients(inside, inputs)
    outside = ops.dot_product_attention(*inputs)
    assert torch.equal(inside, outside)
    for a, b in zip(inside_gradients, gradients(outside, inputs), strict=True):
        assert torch.equal(a, b)


KERNELS = [ops.dot_product_attention, ops.elu_dot_product_attention, ops.softmax_attention, ops.l2_attention]


@pytest.mark.parametrize('kernel', KERNELS)
def test_compiles_in_one_graph_for_every_length(kernel):
    torch._dynamo.reset()
    compiled = torch.compile(kernel, backend='aot_eager', fullgraph=True, dynamic=True)
    for n in (20, 30, 41):
        inputs = features(n, n + 3)
        assert_same(compiled(*inputs), kernel(*inputs), inputs)


def test_operators_keep_their_promises(monkeypatch):
    monkeypatch.setitem(blocked_positive.BLOCK, 'cpu', 1)
    q, k, v = features(20, 9)
    beta = torch.randn(2, 3, 20, 9, dtype=torch.float64, requires_grad=True)
    forward, backward = blocked_positive._blocked_positive, blocked_positive._blocked_positive_backward
    for logits, elu in ((beta, False), (None, False), (None, True)):
        torch.library.opcheck(forward, (q, k, v, logits, elu))
        with torch.no_grad():
            out, z, s = forward(q, k, v, logits, elu)
            # Only the forward operator is differentiable.
            torch.library.opcheck(
                backward,
                (
                    torch.randn_like(out),
                    *(None if x is None else x.detach() for x in (q, k, v, logits)),
                    out,
                    z,
                    s,
                    elu,
                    logits is not None,
                ),
                test_utils=('test_schema', 'test_faketensor', 'test_aot_dispatch_static'),
            )


@pytest.mark.parametrize('kernel', [ops.dot_product_attention, ops.elu_dot_product_attention])
def test_second_derivative_is_there_or_refused(kernel):
    inputs = features(4, 3, 2, 2)
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(kernel, inputs)
    with pytest.raises(RuntimeError, match='has no second derivative: run the forward pass inside'):
        torch.autograd.grad(kernel(*inputs).square().sum(), inputs[0], create_graph=True)


@pytest.mark.parametrize('with_logits', [False, True])
@pytest.mark.parametrize('size, values', [(8, 8), (5, 4), (8, 16), (16, 8), (9, 150), (129, 128), (64, 200)])
@pytest.mark.parametrize(
    'kernel, dense', [(ops.softmax_attention, ops.softmax_attention_dense), (ops.l2_attention, ops.l2_attention_dense)]
)
def test_softmax_kernels_are_fused_whatever_the_widths(kernel, dense, size, values, with_logits):
    q, k, v = features(33, 20, size, values)
    q, k, v = inputs = tuple((x.detach() / size**0.5).mT.contiguous().mT.requires_grad_() for x in (q, k, v))
    beta = None
    if with_logits:
        beta = torch.randn(3, 33, 20, dtype=torch.float64)
        beta[..., 2] = -math.inf
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # raises where the fused kernel cannot be taken
        ours = kernel(*inputs, beta)
        ours_gradients = gradients(ours, inputs)
    theirs = dense(*inputs, beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for got, expected in zip(ours_gradients, gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_logits_that_are_learned_have_their_gradient():
    inputs = features(9, 7, 5, 70)
    beta = torch.randn(3, 9, 7, dtype=torch.float64, requires_grad=True)
    assert_same(ops.softmax_attention(*inputs, beta), ops.softmax_attention_dense(*inputs, beta), (*inputs, beta))


@pytest.mark.parametrize('parts', [{}, dict(num_heads=4), dict(key_pooling=2)], ids=str)
@pytest.mark.parametrize('form', ['certified', 'conditional', 'none'])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'l2'])
def test_softmax_modes_are_fused(mode, form, parts):
    torch.manual_seed(0)
    block = FORMS[form](64, mode=mode, **parts)
    x = torch.randn(1, 64, 5, 6)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        block(x).sum().backward()
    if form != 'none' and mode != 'l2':
        placed = FORMS[form](64, mode=mode, position='learned', **parts)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), torch.no_grad():
            placed(x)


def test_l2_in_half_precision_keeps_the_squares():
    """Squares of about 64: rounded to bfloat16 once they would be off by up to 1/4, and out by 0.1 or more."""
    torch.manual_seed(0)
    half_k, half_v = (torch.randn(1, 2, 100, 64).bfloat16() for _ in range(2))
    k = torch.cat([half_k, -half_k], 2)  # the mean key is 0: centring rounds nothing
    v = torch.cat([half_v, half_v.flip(2)], 2)
    q = k[:, :, 50:150] / 4  # no single key is much the nearest
    exact = ops.l2_attention_dense(q.double(), k.double(), v.double())
    torch.testing.assert_close(ops.l2_attention(q, k, v).double(), exact, rtol=0, atol=0.02)


MEMORY = """
import resource
import torch
from mmseg_invattn.ops import attention as ops
torch.set_num_threads(1)

def step(kernel, n):
    q, k, v = (torch.randn(1, 1, n, size, requires_grad=True) for size in (8, 8, 16))
    kernel(q, k, v).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

kernels = [getattr(ops, name) for name in {names}]
before = max(step(kernel, 64) for kernel in kernels)
print('MiB', *(step(kernel, {n}) - before for kernel in kernels))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is in kilobytes on Linux alone')
def test_memory_is_far_below_the_map():
    n, names = 4096, [kernel.__name__ for kernel in KERNELS]
    run = subprocess.run(
        [sys.executable, '-c', MEMORY.format(names=names, n=n)], capture_output=True, text=True, check=True
    )
    extra = run.stdout.splitlines()[-1].split()[1:]  # the peak so far, after each of the kernels
    a_map = 4 * n**2 / 2**20
    found = dict(zip(names, map(float, extra), strict=True))
    assert max(found.values()) < a_map / 4, found


@pytest.mark.parametrize('shape', [(1, 1, 37, 8), (2, 1, 33, 16), (1, 3, 5, 8)])
def test_queries_in_parts_for_more_threads_than_heads(shape, monkeypatch):
    """Each part has a thread of its own in the backward pass; the result is the same."""
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 5)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    calls = []
    whole = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        'scaled_dot_product_attention',
        lambda q, *args, **options: calls.append(len(q)) or whole(q, *args, **options),
    )
    ours, dense = ops.softmax_attention(*inputs), ops.softmax_attention_dense(*inputs)
    assert calls == [shape[0] * (5 // (shape[0] * shape[1]))]
    weight = torch.randn_like(ours)
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(*(torch.autograd.grad(out, inputs, weight) for out in (ours, dense)))
