"""The functions of ops under torch.func, in forward mode and differentiated twice: right, or refused in clear words."""

import math

import pytest
import torch
from helpers.kernel_cases import elu_dot_product_dense, mean_dot_product_dense
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.ops import attention as kernels
from mmseg_invattn.ops import (
    gram_norm,
    local_lipschitz,
    plain_operators_wanted,
    to_ball,
    transposed,
    twice_differentiable,
)
from mmseg_invattn.ops.attention import look_up

B, G, N, M, D, E = 2, 2, 4, 5, 2, 3
SIZE = (2, 2)  # of the maps with N pixels


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(d=D, m=M):
    return normal(B, G, N, d), normal(B, G, m, d, seed=1), normal(B, G, m, E, seed=2)


def beta(masked=False):
    logits = normal(G, N, M, seed=3)
    if masked:
        logits[:, :, 1] = logits[0, 2, 2:] = logits[1, 0, :4] = -math.inf
    return logits


def criss_cross(q, k, v):
    weights = kernels.criss_cross_weights(kernels.dot_product_log_weights, q, k, SIZE)
    return kernels.mix_criss_cross(*weights, v)


def criss_cross_dense(q, k, v):
    mask = kernels.neighbourhood_mask('criss_cross', SIZE)
    return kernels.log_elu1(q @ k.mT).masked_fill(~mask, -math.inf).softmax(-1) @ v


def pooled(q, k, v):
    k, v = (kernels.pool_tokens(t, SIZE, (1, 2)) for t in (k, v))
    return kernels.softmax_attention(q, k, v)


def pooled_dense(q, k, v):
    matrix = torch.cat([torch.full((1, N), 1 / N, dtype=torch.float64), torch.eye(N, dtype=torch.float64)])
    return kernels.softmax_attention_dense(q, matrix @ k, matrix @ v)


def ball_dense(x, scale):
    return x / (scale.square() + x.square().sum(-1, keepdim=True)).sqrt()


def gram_dense(weight, n_iter=6):
    power = torch.linalg.matrix_power(weight.mT @ weight, 2**n_iter)  # G_n without its scale
    return torch.linalg.matrix_norm(power) ** (1 / 2 ** (n_iter + 1))


TABLE = normal(G, 7), normal(N, M).clamp(-4, 4)
CASES = {
    'softmax': (kernels.softmax_attention, kernels.softmax_attention_dense, features()),
    'softmax_logits': (kernels.softmax_attention, kernels.softmax_attention_dense, (*features(), beta())),
    'softmax_wide': (
        kernels.softmax_attention,
        kernels.softmax_attention_dense,
        (*features()[:2], normal(B, G, M, 70)[..., :66]),
    ),
    'l2': (kernels.l2_attention, kernels.l2_attention_dense, features()),
    'l2_logits': (kernels.l2_attention, kernels.l2_attention_dense, (*features(), beta())),
    'dot_product': (kernels.dot_product_attention, kernels.dot_product_attention_dense, features()),
    'dot_product_logits': (kernels.dot_product_attention, kernels.dot_product_attention_dense, (*features(), beta())),
    'mean_dot_product': (kernels.mean_dot_product_attention, mean_dot_product_dense, features()),
    'elu_dot_product': (kernels.elu_dot_product_attention, elu_dot_product_dense, features()),
    'concatenation': (kernels.concatenation_attention, kernels.concatenation_attention_dense, features(1)),
    'concatenation_logits': (
        kernels.concatenation_attention,
        kernels.concatenation_attention_dense,
        (*features(1), beta()),
    ),
    'mean_concatenation': (
        kernels.mean_concatenation_attention,
        kernels.mean_concatenation_attention_dense,
        features(1),
    ),
    'elu_concatenation': (kernels.elu_concatenation_attention, kernels.elu_concatenation_attention_dense, features(1)),
    'criss_cross': (criss_cross, criss_cross_dense, features(m=N)),
    'pooled': (pooled, pooled_dense, features(m=N)),
    'to_ball': (to_ball, ball_dense, (normal(B, N, D), normal(B, 1, 1).exp())),
    'transposed': (transposed, lambda x: x.mT, (normal(B, N, D),)),
    'gram_norm': (gram_norm, gram_dense, (normal(B, 3, 4),)),
    'look_up': (lambda table: look_up(table, TABLE[1]), lambda table: look_up_dense(table, TABLE[1]), TABLE[:1]),
}
FUSED = [
    name
    for name, (kernel, _, inputs) in CASES.items()
    if name.split('_')[0] in ('softmax', 'l2', 'dot', 'elu', 'concatenation', 'pooled') and len(inputs) == 3
]
FUSED += ['mean_concatenation', 'dot_product_logits']


def look_up_dense(table, offset):
    """Hat functions around the entries."""
    reach = table.shape[1] // 2
    distance = (offset.clamp(-reach, reach)[..., None] - torch.arange(-reach, reach + 1)).abs()
    return torch.einsum('nms,gs->gnm', (1 - distance).clamp(min=0), table)


def scalar(function):
    """A number whose second derivative is nowhere that of a square alone."""
    return lambda *inputs: (function(*inputs) * 0.7).sin().sum()


def vmap_all(function, inputs):
    return torch.vmap(function)(*(torch.stack([t, 0.5 * t]) for t in inputs))


def vmap_each(function, inputs):
    """Over one argument at a time, from another dimension."""
    out = []
    for i, t in enumerate(inputs):
        dims = tuple(-1 if j == i else None for j in range(len(inputs)))
        out.append(torch.vmap(function, dims)(*inputs[:i], torch.stack([t, 0.5 * t], -1), *inputs[i + 1 :]))
    return out


def dual(function, inputs):
    with forward_ad.dual_level():
        out = function(*(forward_ad.make_dual(t, t.cos()) for t in inputs))
        return forward_ad.unpack_dual(out).tangent.clone()


def everything(inputs):
    return tuple(range(len(inputs)))


TRANSFORMS = {
    'jvp': lambda f, inputs: torch.func.jvp(f, inputs, tuple(t.cos() for t in inputs)),
    'dual': dual,
    'vjp': lambda f, inputs: torch.func.vjp(f, *inputs)[1](f(*inputs).cos()),
    'grad': lambda f, inputs: torch.func.grad(scalar(f), everything(inputs))(*inputs),
    'vmap': vmap_all,
    'vmap_each': vmap_each,
    'vmap_grad': lambda f, inputs: vmap_all(torch.func.grad(scalar(f), everything(inputs)), inputs),
    'jacfwd': lambda f, inputs: torch.func.jacfwd(f, everything(inputs))(*inputs),
    'jacrev': lambda f, inputs: torch.func.jacrev(f, everything(inputs))(*inputs),
    'hessian': lambda f, inputs: torch.func.hessian(scalar(f), everything(inputs))(*inputs),
    'jacfwd_twice': lambda f, inputs: torch.func.jacfwd(torch.func.jacfwd(scalar(f)))(*inputs),
    'jacrev_twice': lambda f, inputs: torch.func.jacrev(torch.func.jacrev(scalar(f)))(*inputs),
    'jacrev_of_jacfwd': lambda f, inputs: torch.func.jacrev(torch.func.jacfwd(scalar(f)))(*inputs),
}


@pytest.mark.parametrize('transform', TRANSFORMS)
@pytest.mark.parametrize('case', CASES)
def test_transforms(case, transform):
    function, dense, inputs = CASES[case]
    got, expected = (TRANSFORMS[transform](f, inputs) for f in (function, dense))
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_second_derivative_of_ordinary_differentiation(case):
    function, dense, inputs = CASES[case]

    def penalty(f):
        leaves = [t.clone().requires_grad_() for t in inputs]
        with twice_differentiable():
            slopes = torch.autograd.grad(scalar(f)(*leaves), leaves, create_graph=True)
        return slopes, torch.autograd.grad(
            sum(s.sin().sum() for s in slopes), leaves, allow_unused=True, materialize_grads=True
        )

    torch.testing.assert_close(penalty(function), penalty(dense), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('case', ['to_ball', 'gram_norm', 'transposed'])
def test_all_derivatives_of_functions_with_a_backward_of_their_own(case):
    function, _, inputs = CASES[case]
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)
    # the graph of a gradient of a gradient
    (first,) = torch.autograd.grad(scalar(function)(*inputs), inputs[0], create_graph=True)
    (second,) = torch.autograd.grad(first.sin().sum(), inputs[0], create_graph=True)
    assert case == 'transposed' or second.requires_grad


@pytest.mark.parametrize('case', FUSED)
def test_a_fused_kernel_refuses_a_second_derivative_by_name(case):
    function, _, inputs = CASES[case]
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = scalar(function)(*leaves)
    for leaf in leaves:
        with pytest.raises(RuntimeError, match='twice_differentiable'):
            torch.autograd.grad(out, leaf, create_graph=True, retain_graph=True)
        torch.autograd.grad(out, leaf, retain_graph=True)


@pytest.mark.parametrize('case', FUSED)
def test_a_fused_kernel_refuses_a_tangent_of_its_gradient(case):
    function, _, inputs = CASES[case]
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match='twice_differentiable'):
        torch.autograd.grad(out, leaves, forward_ad.make_dual(out.detach(), out.detach()), retain_graph=True)
    basis = torch.stack([out.detach(), out.detach().cos()])
    rows = torch.autograd.grad(out, leaves[0], basis, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(rows[1], torch.autograd.grad(out, leaves[0], basis[1])[0])


def test_plain_operators_are_not_refused():
    q, k, v = (t.clone().requires_grad_() for t in features())
    out = kernels.mean_dot_product_attention(q, k, v)
    assert torch.autograd.grad(out.sin().sum(), q, create_graph=True)[0].requires_grad
    with sdpa_kernel(SDPBackend.MATH):
        out = kernels.softmax_attention(q, k, v)
    assert torch.autograd.grad(out.sin().sum(), q, create_graph=True)[0].requires_grad


def test_when_plain_operators_are_wanted():
    seen = []

    def ask(x):
        seen.append(plain_operators_wanted())
        return x

    x = torch.ones(2)
    ask(x)
    with torch.no_grad():
        torch.func.jvp(ask, (x,), (x,))
    torch.vmap(ask)(x)
    torch.func.grad(lambda x: ask(x).sum())(x)
    with forward_ad.dual_level():
        ask(x)
    with twice_differentiable():
        ask(x)
    ask(x)
    assert seen == [False, True, True, True, True, True, False]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    'case', ['softmax', 'dot_product', 'elu_dot_product', 'concatenation', 'to_ball', 'transposed', 'gram_norm']
)
def test_compiled_and_exported(case):
    function, _, inputs = CASES[case]

    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return function(*inputs)

    def gradients(f):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = f(*leaves)
        return out, *torch.autograd.grad(scalar(lambda: out)(), leaves)

    torch._dynamo.reset()
    compiled = torch.compile(Module(), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(gradients(compiled), gradients(function))
    hessian = torch.compile(TRANSFORMS['hessian'], backend='aot_eager')
    torch.testing.assert_close(hessian(function, inputs), TRANSFORMS['hessian'](function, inputs))
    with twice_differentiable():
        exported = torch.export.export(Module(), inputs, strict=False)
    assert 'mmseg_invattn' not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(*inputs), function(*inputs))


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('case', [name for name in CASES if name.endswith('_logits')])
def test_logits_of_minus_infinity_leave_keys_out(case, plain, learned):
    function, dense, inputs = CASES[case]
    inputs = [t.clone().requires_grad_() for t in (*inputs[:3], beta(masked=True))]
    inputs[3].requires_grad_(learned)
    leaves = inputs[: 4 if learned else 3]
    with twice_differentiable(plain):
        got = function(*inputs)
        slopes = torch.autograd.grad(scalar(lambda: got)(), leaves, create_graph=plain)
    out = dense(*inputs)
    expected = torch.autograd.grad(scalar(lambda: out)(), leaves, create_graph=plain)
    torch.testing.assert_close(got, out)
    torch.testing.assert_close(slopes, expected)
    if plain:
        got, expected = (torch.autograd.grad(sum(s.sin().sum() for s in slope), leaves) for slope in (slopes, expected))
        torch.testing.assert_close(got, expected)
    assert all(s.isfinite().all() for s in (*slopes, *expected))


@pytest.mark.parametrize(
    'kernel, dense',
    [
        (kernels.softmax_attention, kernels.softmax_attention_dense),
        (kernels.dot_product_attention, kernels.dot_product_attention_dense),
    ],
)
def test_whole_blocks_of_keys_left_out(kernel, dense):
    """Fused kernels run over blocks of some hundred keys: none of a block may be left."""
    q, k, v = (normal(1, 1, n, D, seed=n).requires_grad_() for n in (5, 1300, 1300))
    logits = torch.zeros(1, 5, 1300, dtype=torch.float64)
    logits[..., :1100], logits[:, 1, 1200:] = -math.inf, -math.inf
    results = [(out := f(q, k, v, logits), *torch.autograd.grad(out.sin().sum(), (q, k, v))) for f in (kernel, dense)]
    torch.testing.assert_close(*results)


def test_criss_cross_with_pixels_left_out():
    q, k, v = features(m=N)
    row, column = normal(G, 2, 2), normal(G, 2, 2, seed=1)
    row[0, 0, 1] = column[1, 1, 0] = -math.inf
    row, column = row.requires_grad_(), column.requires_grad_()
    weights = kernels.criss_cross_weights(kernels.dot_product_log_weights, q, k, SIZE, row, column)
    slopes = torch.autograd.grad(kernels.mix_criss_cross(*weights, v).sin().sum(), (row, column))
    assert (weights[0][:, 0, :, 0, 1] == 0).all() and (weights[1][:, 1, :, 1, 0] == 0).all()
    assert all(t.isfinite().all() for t in (*weights, *slopes))
    assert slopes[0][0, 0, 1] == slopes[1][1, 1, 0] == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_table_entry_of_minus_infinity_leaves_out_its_pixels(dtype):
    table = torch.arange(5, dtype=dtype).repeat(2, 1)
    table[0, 0] = table[1, 3] = -math.inf
    offset = torch.tensor([[-9, -2, -1, 0, 1, 2, 9], [-1.5, -0.5, 0.5, 1.5, 2, 2, 2]], dtype=dtype)
    got = look_up(table.requires_grad_(), offset)
    inf = math.inf
    expected = [
        [[-inf, -inf, 1, 2, 3, 4, 4], [-inf, 1.5, 2.5, 3.5, 4, 4, 4]],
        [[0, 0, 1, 2, -inf, 4, 4], [0.5, 1.5, -inf, -inf, 4, 4, 4]],
    ]
    assert torch.equal(got, torch.tensor(expected, dtype=dtype))
    got.softmax(-1).square().sum().backward()
    assert table.grad.isfinite().all() and table.grad[0, 0] == table.grad[1, 3] == 0
    assert (table.grad != 0).any()


def test_local_lipschitz_in_inference_mode():
    q, k, v = features(m=N)
    weight = normal(D, D).requires_grad_()

    def function(x):
        return kernels.dot_product_attention(to_ball(x) @ weight, to_ball(x), to_ball(x)) + x

    expected = local_lipschitz(function, q, lambda t: t.flatten(1, 2))
    with torch.inference_mode():
        for x in (q, q.clone()):
            assert torch.equal(local_lipschitz(function, x, lambda t: t.flatten(1, 2)), expected)
    with torch.no_grad():
        assert torch.equal(local_lipschitz(function, q, lambda t: t.flatten(1, 2)), expected)
    assert weight.grad is None
