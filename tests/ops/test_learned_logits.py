"""Softmax attention with logits that learn: one kernel with gradients and without, and the right gradients."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.layers import CouplingAttention2d
from mmseg_invattn.models import RevNet2d
from mmseg_invattn.ops import max_token_norm
from mmseg_invattn.ops.attention import softmax, softmax_attention, softmax_attention_dense


def features(dtype: torch.dtype = torch.float64, groups: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = (2, 2, 9, 8), (2, 2, 7, 8), (2, 2, 7, 5), (groups, 9, 7)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('block', [2**18, 7])
def test_gradients_are_those_of_the_definition(groups, block, monkeypatch):
    monkeypatch.setattr('mmseg_invattn.ops.attention.learned_logits.BLOCK', block)
    leaves = features(groups=groups)
    grad = torch.randn(2, 2, 9, 5, dtype=torch.float64)
    fused = torch.autograd.grad(softmax_attention(*leaves), leaves, grad)
    dense = torch.autograd.grad(softmax_attention_dense(*leaves), leaves, grad)
    for a, b in zip(fused, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_that_come_in_batches():
    q, k, v, beta = features()
    out = softmax_attention(q, k, v, beta)
    basis = torch.randn(3, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(out, beta, basis, is_grads_batched=True, retain_graph=True)[0]
    for row, direction in zip(together, basis, strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(out, beta, direction, retain_graph=True)[0])


def test_one_kernel_with_gradients_and_without():
    q, k, v, beta = features(torch.float32)
    with torch.no_grad():
        without = softmax_attention(q, k, v, beta)
    assert torch.equal(softmax_attention(q, k, v, beta), without)
    with sdpa_kernel(SDPBackend.MATH):  # otherwise equal results would prove nothing
        assert not torch.equal(softmax_attention(q, k, v, beta), without)


@pytest.mark.parametrize('numbers', [1, 100, 2**24])
def test_attention_in_blocks(numbers):
    q, k, v, beta = (t.detach() for t in features())
    want = softmax_attention_dense(q, k, v, beta)
    torch.testing.assert_close(softmax.attend_in_blocks(q, k, v, beta[None], numbers), want, rtol=1e-12, atol=1e-12)


def test_what_a_coupling_with_learned_positions_adds_it_takes_back():
    """Forward with gradients, inverse without: the sub-network of what passes gives the same bits."""
    torch.manual_seed(0)
    block, x = CouplingAttention2d(16, position='learned', position_size=8), torch.randn(4, 16, 8, 8)
    with torch.no_grad():
        block.second.attention.position.row.normal_()
    y = block(x)
    x_hat, info = block.inverse(y.detach())
    half = x_hat[:, 8:] - x[:, 8:]
    # one sum and one difference, rounded: nothing of the attention between them
    assert half.abs().max() <= 2.0**-23 * y.abs().max()
    assert (max_token_norm(x_hat - x) <= info.error_bound).all()


@pytest.mark.parametrize('memory_free', [False, True])
def test_a_reversible_network_with_learned_positions_keeps_its_bound(memory_free):
    torch.manual_seed(0)
    net = RevNet2d(
        strides=(2, 2),
        out_indices=(1,),
        stage_blocks=(1, 1),
        hidden_channels=(8, 8),
        memory_free=memory_free,
        attention=dict(position='learned', position_size=8),
        attention_stages=(1,),
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if 'position' in name:
                parameter.normal_()
    x = torch.randn(3, 3, 16, 16)
    y = net(x)
    x_hat, info = net.inverse([part.detach() for part in y])
    error = net.flow.error_norm(x_hat.double() - x.double())
    assert (error <= info.error_bound).all() and (info.error_bound < 1e-3).all()
