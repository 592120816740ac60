"""Spectral bounds, the ball, attention, against their definitions."""

import pytest
import torch

from mmseg_invattn.ops import gram_norm, softmax_attention, softmax_attention_dense, spectral_norm_bound, to_ball


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(1, 1), (5, 5), (64, 3), (3, 64), (200, 200), (1, 40), (300, 1)])
@pytest.mark.parametrize('scale', [1e-12, 1.0, 1e12])
def test_gram_norm_is_an_upper_bound(shape, scale, dtype):
    torch.manual_seed(0)
    weight = torch.randn(4, *shape, dtype=dtype) * scale
    exact = torch.linalg.matrix_norm(weight.double(), 2)
    for bound, slack in ((gram_norm(weight), 1.03), (spectral_norm_bound(weight), 1.003)):
        assert (bound >= exact).all() and (bound <= slack * exact).all()


def test_gram_norm_of_hard_matrices():
    """Equal singular values are where the bound is loosest, one dominant value where rounding could undercut it."""
    rotation = torch.linalg.qr(torch.randn(128, 128, dtype=torch.float64))[0]
    graded = torch.diag(torch.logspace(-30, 0, 128, dtype=torch.float64))
    for weight in (torch.eye(128).double(), rotation, torch.ones(128, 128).double(), graded):
        exact = torch.linalg.matrix_norm(weight, 2)
        assert exact <= spectral_norm_bound(weight) <= 1.003 * exact
        assert exact <= gram_norm(weight.float()).double() <= 1.03 * exact


def test_gram_norm_gradient_and_zero():
    weight = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    for matrices in (weight, weight.mT, weight[..., :1]):
        assert torch.autograd.gradcheck(gram_norm, matrices) and torch.autograd.gradgradcheck(gram_norm, matrices)
    for scale in (1e-15, 1e15):  # of degree 1: the gradient does not depend on the scale
        scaled = (weight.detach().float() * scale).requires_grad_()
        (one,) = torch.autograd.grad(gram_norm(scaled).sum(), scaled)
        plain = weight.detach().float().requires_grad_()
        (other,) = torch.autograd.grad(gram_norm(plain).sum(), plain)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert spectral_norm_bound(torch.zeros(3, 4, 4)).tolist() == [0, 0, 0]
    assert gram_norm(torch.zeros(4, 4)).isfinite() and gram_norm(torch.zeros(4, 4)) > 0


def test_ball_does_not_expand():
    torch.manual_seed(1)
    x = torch.randn(1000, 6, dtype=torch.float64) * torch.logspace(-4, 4, 1000, dtype=torch.float64)[:, None]
    y = x + torch.randn_like(x) * torch.logspace(-6, 3, 1000, dtype=torch.float64)[:, None]
    for scale in (0.5, 1.0, 3.0):
        moved = (to_ball(x, scale) - to_ball(y, scale)).norm(dim=-1)
        assert (moved <= (x - y).norm(dim=-1) / scale * (1 + 1e-12)).all()
        assert (to_ball(x, scale).norm(dim=-1) <= 1).all()
        torch.testing.assert_close(to_ball(x, scale), x / torch.sqrt(scale**2 + x.square().sum(-1, keepdim=True)))
    inputs = (
        torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True),
        torch.tensor([[0.3], [2.0]], dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(to_ball, inputs) and torch.autograd.gradgradcheck(to_ball, inputs)


def test_ball_takes_any_size():
    x = torch.tensor([[1e30, 0.0], [1e-30, 0.0], [0.0, 0.0]])
    assert torch.allclose(to_ball(x), torch.tensor([[1.0, 0.0], [1e-30, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize('n, m', [(1, 1), (7, 5), (64, 64)])
def test_softmax_attention_is_its_definition(n, m):
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 3, size, 4, dtype=torch.float64, requires_grad=True) for size in (n, m, m))
    fused, dense = softmax_attention(q, k, v), softmax_attention_dense(q, k, v)
    torch.testing.assert_close(fused, dense, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(dense)
    for a, b in zip(
        torch.autograd.grad((fused * weight).sum(), (q, k, v)),
        torch.autograd.grad((dense * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
