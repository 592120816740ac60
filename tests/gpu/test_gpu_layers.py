"""Layers on a device: what they compute there is what they compute in float64 on the CPU, and their bounds hold."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mmseg_invattn.layers import FORMS, InvertibleModule, PaperAttention2d
from mmseg_invattn.layers.attention.modes import MODES

OPTIONS = {
    'plain': {},
    'heads': dict(num_heads=2),
    'position': dict(position='learned', position_size=6),
    'pooled': dict(key_pooling=2),
    'criss_cross': dict(neighbourhood='criss_cross'),
    'window': dict(neighbourhood='window', window_size=4),
}
CASES = [(form, mode, 'plain') for form in FORMS for mode in MODES]
CASES += [('certified', 'embedded_gaussian', name) for name in list(OPTIONS)[1:]]


def built(form: str, mode: str, options: str) -> tuple[nn.Module, Tensor]:
    """An initialised layer on the CPU in float32, and features."""
    torch.manual_seed(0)
    layer, x = FORMS[form](16, mode=mode, **OPTIONS[options]), torch.randn(2, 16, 6, 7)
    layer(x)
    for parameter in layer.parameters():  # outputs that start at 0 would hide what the branch computes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer, x


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """y, and the gradients of x and of the parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], weight, allow_unused=True)]


@pytest.mark.parametrize('form, mode, options', CASES)
def test_forward_and_gradients(device, form, mode, options):
    layer, x = built(form, mode, options)
    wanted = results(copy.deepcopy(layer).double(), x.double())
    ours = results(layer.to(device), x.to(device))
    names = ['y', 'x', *(name for name, _ in layer.named_parameters())]
    largest = max(float(b.abs().max()) for b in wanted[1:] if b is not None)  # some gradients are 0 but for rounding
    for name, a, b in zip(names, ours, wanted, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.device.type == device
            error = float((a.cpu().double() - b).abs().max())
            # a sum over pixels that cancels, the gradient of a centre, is off by 4e-5 on the CPU; TF32 would exceed it
            assert error <= 2e-4 * max(float(b.abs().max()), 0.1 * largest), (name, error)


@pytest.mark.parametrize('form, mode, options', CASES)
@torch.no_grad()
def test_inverse_and_certificates(device, form, mode, options):
    layer, x = built(form, mode, options)
    if not isinstance(layer, InvertibleModule) or isinstance(layer, PaperAttention2d):
        pytest.skip('certifies nothing')
    bound = layer.lipschitz_bound()
    layer, x = layer.to(device), x.to(device)
    x_hat, info = layer.inverse(layer(x))
    error = layer.error_norm(x_hat.double() - x.double())
    assert info.converged.all() and (error <= info.error_bound).all(), (error, info.error_bound)
    assert (info.error_bound <= 1e-3 * layer.error_norm(x)).all()
    assert layer.lipschitz_bound() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling'])
@torch.no_grad()
def test_log_determinants(device, form):
    """Exact, and by a series, which has as many probes as there are pixels and so draws nothing."""
    layer, x = built(form, 'embedded_gaussian', 'plain')
    layer, x = layer.to(device), x[:, :, :2, :2].to(device)
    exact = copy.deepcopy(layer).double().log_abs_det(x.double(), 'exact')
    torch.testing.assert_close(layer.log_abs_det(x, 'exact').double(), exact, rtol=1e-3, atol=1e-4)
    if form == 'certified':  # whose probes are random
        return
    series = layer.double().log_abs_det(x.double(), n_terms=20, n_samples=4)
    assert ((series - exact).abs() <= layer.log_abs_det_error_bound(x.double(), 20)).all()
