"""How many operators a call takes: on small maps that is what it costs, on every machine alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_invattn.layers import FORMS, constant_weights


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operators(function: Callable[[], object]) -> int:
    with Counter() as counter:
        function()
    return counter.count


def blocks(form: str, mode: str) -> tuple[torch.nn.Module, torch.nn.Module, Tensor]:
    """A block of the form and ordinary attention, started, and features."""
    torch.manual_seed(0)
    block, ordinary, x = FORMS[form](16, mode=mode), FORMS['none'](16, mode=mode), torch.randn(2, 16, 8, 16)
    block.train()(x)
    return block, ordinary, x


@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'l2'])
@torch.no_grad()
def test_certified_inference_takes_those_of_ordinary_attention(mode):
    block, ordinary, x = blocks('certified', mode)
    with constant_weights(block.eval()), constant_weights(ordinary.eval()):
        block(x)
        assert operators(lambda: block(x)) <= operators(lambda: ordinary(x)) + 12  # the normalisation of the tokens


@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian'])
def test_certificate_of_a_training_step(mode):
    block, ordinary, x = blocks('certified', mode)
    x.requires_grad_()
    counts = [operators(lambda layer=layer: layer(x).sum().backward()) for layer in (block, ordinary)]
    assert counts[0] <= 2.7 * counts[1], counts


@pytest.mark.parametrize('form', ['certified', 'conditional'])
@torch.no_grad()
def test_constant_weights_are_scaled_once_for_a_number_of_pixels(form, monkeypatch):
    block, _, x = blocks(form, 'embedded_gaussian')
    wanted = {size: block.eval()(x[..., :size]) for size in (16, 8)}
    calls, scale = [], block._scaled
    monkeypatch.setattr(block, '_scaled', lambda weights, n: calls.append(n) or scale(weights, n))
    with constant_weights(block):
        for size in (16, 16, 8, 8, 16):
            assert torch.equal(block(x[..., :size]), wanted[size])
    assert calls == [128, 64, 128]
    block(x)
    assert calls[3:] == [128]


@pytest.mark.parametrize('form', ['certified', 'conditional'])
def test_constant_weights_of_a_call_in_inference_mode_serve_one_that_differentiates(form):
    block, _, x = blocks(form, 'embedded_gaussian')
    x = x[:1, :, :4, :4]  # its exact Jacobian is formed
    block.eval().requires_grad_(False)
    with torch.no_grad():
        log_det = block.log_abs_det(x, 'exact')
    x.requires_grad_()
    (wanted,) = torch.autograd.grad(block(x).square().sum(), x)
    with constant_weights(block):
        with torch.inference_mode():
            block(x)
        (found,) = torch.autograd.grad(block(x).square().sum(), x)
        assert torch.equal(found, wanted)
        with torch.no_grad():
            assert torch.equal(block.log_abs_det(x, 'exact'), log_det)
