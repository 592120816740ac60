"""Couplings on a grid and the orthogonal convolution are exact, and report where they are not."""

import pytest
import torch
from torch import nn

from mmseg_invattn.layers import GridCoupling, InvertibleSequential, MemoryFree, OrthogonalConv1x1, ToGrid
from mmseg_invattn.layers.flow.conv_residual import conv_norm
from mmseg_invattn.layers.flow.grid import grid_step, is_exact, to_grid
from mmseg_invattn.layers.testing import check_layer
from mmseg_invattn.ops import max_token_norm, spectral_norm_bound


def steep(channels: int = 6, layers: int = 12) -> InvertibleSequential:
    """Sub-networks that amplify a rounding error a thousandfold each."""

    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

        def forward(self, x):
            return (1000 * self.conv(x)).sin()

    return InvertibleSequential(ToGrid(), *(GridCoupling(channels, Steep(), bool(k % 2)) for k in range(layers)))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_steep_couplings_come_back_bit_for_bit(dtype):
    torch.manual_seed(0)
    sequence, x = steep().to(dtype), torch.randn(2, 6, 8, 8, dtype=dtype)
    with torch.no_grad():
        x_hat, info = sequence.inverse(sequence(x))
    assert torch.equal(x_hat, to_grid(x)) and (info.residual == 0).all() and info.converged.all()
    error = max_token_norm(x_hat - x)
    assert (error > 0).all() and (error <= info.error_bound).all()
    assert info.error_bound.max() <= 1.001 * grid_step(dtype) / 2 * 6**0.5


def test_the_bound_knows_where_exactness_ends():
    torch.manual_seed(1)
    coupling = GridCoupling(4, nn.Conv2d(2, 2, 1))
    x = to_grid(torch.randn(3, 4, 5, 5))
    x[1] += 1e-6  # off the grid
    x[2] *= 5000 / x[2].abs().max()  # beyond its range
    assert is_exact(x).tolist() == [True, False, False]
    with torch.no_grad():
        x_hat, info = coupling.inverse(coupling(x))
    assert (info.error_bound > 0).tolist() == [False, True, True]
    assert (max_token_norm(x_hat - x) <= info.error_bound).all()
    with torch.no_grad():  # after another layer its bound is unknown
        _, info = InvertibleSequential(coupling, coupling).inverse(x)
    assert info.error_bound.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_y_that_was_rounded_when_it_was_stored_is_not_exact(dtype):
    """Numbers of few bits lie on the grid, but they are not those that forward had."""
    torch.manual_seed(5)
    coupling, x = GridCoupling(4, nn.Conv2d(2, 2, 1)), torch.randn(8, 4, 1, 1).to(dtype)
    x = (x * 8).round() / 8
    with torch.no_grad():
        y = coupling(x)
        x_hat, info = coupling.inverse(y)
    error = max_token_norm(x_hat - x.float())
    assert is_exact(y.float(), x_hat).any() and (error > 0).any() and (error <= info.error_bound).all()


def test_gradients_pass_the_rounding():
    torch.manual_seed(2)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    layers = InvertibleSequential(
        ToGrid(),
        GridCoupling(4, nn.Conv2d(2, 2, 3, padding=1)),
        GridCoupling(4, nn.Conv2d(2, 2, 3, padding=1), swap=True),
    ).double()
    assert torch.autograd.gradcheck(layers, x)
    assert torch.autograd.gradcheck(MemoryFree(layers), x)
    assert (layers.log_abs_det(x) == 0).all() and (layers.log_abs_det_error_bound(x) == 0).all()


def test_orthogonal_conv():
    torch.manual_seed(3)
    check_layer(OrthogonalConv1x1(4), torch.randn(2, 4, 3, 2, dtype=torch.float64))


def test_norm_of_a_convolution_is_tighter_than_the_sum_over_its_taps():
    torch.manual_seed(4)
    for shape in ((8, 8, 3, 3), (16, 8, 3, 3), (4, 12, 5, 5), (8, 8, 1, 1)):
        weight = torch.randn(shape, dtype=torch.float64)
        summed = spectral_norm_bound(weight.flatten(2).permute(2, 0, 1)).sum()
        assert conv_norm(weight) <= summed * (1.05 if shape[2] == 1 else 0.9)
    assert conv_norm(torch.zeros(4, 4, 3, 3)) <= 1e-30
    one_tap = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    one_tap[:, :, 2, 0] = 3 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert 3 <= conv_norm(one_tap) <= 3.1
