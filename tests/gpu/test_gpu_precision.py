"""Autocast and TF32: certificates hold under either, and a layer in float32 does not see them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers.precision_cases import FORMS, pair, under_autocast

from mmseg_invattn.layers import CouplingAttention2d, InvertibleSequential, MemoryFree
from mmseg_invattn.ops.precision import full_precision

MODES = ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation', 'l2']


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Inside, products and convolutions of float32 may be rounded to TF32, or may not."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    saved = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = wanted
        yield
    finally:
        for switch, value in zip(switches, saved, strict=True):
            switch.allow_tf32 = value


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize('mode, dtype', [*((mode, torch.bfloat16) for mode in MODES), ('l2', torch.float16)])
@pytest.mark.parametrize('form', FORMS[:3])
@torch.no_grad()
def test_certificate_holds_under_autocast(device, form, mode, dtype):
    exact, cast, x = pair(form, device, mode=mode)
    for layer in (exact, cast):
        y = under_autocast(layer, x, dtype)
        x_hat, info = layer.inverse(y, strict=False)
        error = layer.error_norm(x_hat.double() - x.double())
        assert y.dtype == torch.float32 and (error <= info.error_bound).all(), (error, info.error_bound)
    # one branch was rounded in that dtype, the other was not
    off, branch = (y - exact(x)).norm(), (exact(x) - x).norm()
    assert 1e-3 * torch.finfo(dtype).eps * branch < off < 8 * torch.finfo(dtype).eps * branch
    assert torch.equal(under_autocast(exact, x, dtype), exact(x))


@pytest.mark.parametrize('form', FORMS)
def test_a_layer_in_float32_does_not_see_tf32(device, form):
    layer, cast, x = pair(form, device)
    found = []
    for wanted in (True, False):
        with tf32(wanted):
            x = x.detach().requires_grad_()
            y = layer(x)
            gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
            x_hat, info = layer.inverse(y.detach())
            found.append((y.detach(), x_hat, info.error_bound))
            assert switches() == (wanted, wanted)  # left as they were
            # the other precision may be rounded, and its bound counts that
            with torch.no_grad():
                x_cast, info = cast.inverse(cast(x), strict=False)
            assert (cast.error_norm(x_cast.double() - x.detach().double()) <= info.error_bound).all()
        assert all(g.isfinite().all() for g in gradients)
    for on, off in zip(*found, strict=True):
        assert torch.equal(on, off)


def test_the_memory_free_backward_pass_recovers_under_tf32(device):
    """Gradients with recovered activations are the stored ones, whatever the switch."""
    torch.manual_seed(0)
    stack = InvertibleSequential(*(form(16) for form in FORMS)).to(device)
    x = torch.randn(2, 16, 6, 7).to(device).requires_grad_()
    with tf32(True):
        wanted = torch.autograd.grad(stack(x).square().sum(), x)[0]
        got = torch.autograd.grad(MemoryFree(stack)(x).square().sum(), x)[0]
    # autograd goes through the stored graph outside of the layers, with products in TF32
    assert (got - wanted).norm() <= (1e-4 if device == 'cpu' else 2e-3) * wanted.norm()


def test_full_precision_multiplies_exactly(device):
    """The device does what the switch says, so that the tests above mean something."""
    torch.manual_seed(0)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    wanted = a.double() @ b.double()
    errors = []
    with tf32(True):
        for inside in (False, True):
            with full_precision(torch.device(device)) if inside else torch.autocast(device, enabled=False):
                errors.append(float((a.to(device) @ b.to(device) - wanted.to(device)).norm() / wanted.norm()))
    assert errors[1] < 2e-6
    if device == 'cuda' and torch.cuda.get_device_capability() >= (8, 0):
        assert errors[0] > 20 * errors[1]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_coupling_takes_back_what_it_added_under_the_same_autocast(device, dtype):
    _, cast, x = pair(CouplingAttention2d, device)
    y = under_autocast(cast, x, dtype)
    with torch.autocast(device, dtype):
        x_hat = cast.inverse(y, strict=False)[0]
    assert (x_hat - x).norm() < 1e-6 * x.norm()
