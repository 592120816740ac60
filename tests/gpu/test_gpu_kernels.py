"""Every attention kernel against its definition in float64 on the CPU, forward and gradient."""

import pytest
import torch
from helpers.kernel_cases import KERNELS, ROW_STOCHASTIC, features
from torch import Tensor

# of the largest number of a result: sums in float32 or float64, of inputs that are rounded already
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def inputs(name: str, n: int, m: int, size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = features(n, m, size)
    if name.startswith('elu'):  # scores that are positive: the normaliser of the others may vanish
        q, k = q.abs(), k.abs()
    return tuple(x.detach().to(device, dtype).requires_grad_() for x in (q, k, v))


def exact(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The very numbers in float64, on the CPU."""
    return tuple(x.detach().cpu().double().requires_grad_() for x in given)


def results(function, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Output and gradients, by the same weights of the outputs."""
    out = function(*given)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    return out.detach(), *torch.autograd.grad(out, given, weight)


def assert_near(ours: tuple[Tensor, ...], wanted: tuple[Tensor, ...], tolerance: float) -> None:
    for part, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        error = (a.cpu().double() - b).abs().max() / b.abs().max()
        assert error <= tolerance, (part, float(error))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('n, m', [(1, 1), (200, 130)])
@pytest.mark.parametrize('name', KERNELS)
def test_kernel_is_its_definition(device, name, n, m, dtype):
    kernel, dense, size = KERNELS[name]
    given = inputs(name, n, m, size, dtype, device)
    ours = results(kernel, given)
    assert all(x.dtype == dtype and x.device.type == device for x in ours)
    wanted = results(dense, exact(given))
    if m == 1:  # one key: the gradients of queries and keys are 0 up to rounding, but for those that do not normalise
        ours, wanted = (ours[0], ours[3]), (wanted[0], wanted[3])
    assert_near(ours, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', ROW_STOCHASTIC)
def test_with_position_logits(device, name, dtype, learned):
    kernel, dense, size = KERNELS[name]
    given = inputs(name, 33, 65, size, dtype, device)
    beta = torch.randn(3, 33, 65, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    double = exact((beta,))[0]
    if learned:
        ours, wanted = results(kernel, (*given, beta.requires_grad_())), results(dense, (*exact(given), double))
    else:
        ours = results(lambda *x: kernel(*x, beta), given)
        wanted = results(lambda *x: dense(*x, double.detach()), exact(given))
    assert_near(ours, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize('name', KERNELS)
@torch.no_grad()
def test_float64_without_gradients(device, name):
    """What certificates are evaluated with: a GPU has no fused kernel for it, and takes it in blocks."""
    kernel, dense, size = KERNELS[name]
    given = inputs(name, 70, 50, size, torch.float64, device)
    assert_near((kernel(*given),), (dense(*exact(given)),), TOLERANCE[torch.float64])


@pytest.mark.parametrize('name', ['softmax', 'l2', 'dot_product', 'concatenation'])
def test_under_autocast_products_may_be_rounded_and_no_more(device, name):
    kernel, dense, size = KERNELS[name]
    given = inputs(name, 40, 60, size, torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        ours = kernel(*given)
    assert_near((ours.detach(),), (dense(*exact(given)).detach(),), TOLERANCE[torch.bfloat16])
