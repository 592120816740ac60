"""Memory-free stacks: what a training step holds does not grow with depth, by what the allocator says."""

import pytest
import torch
from helpers.peak_memory import peak_bytes

from mmseg_invattn.layers import FORMS, AdditiveCoupling, InvertibleSequential, MemoryFree

# depths, channels, pixels a side
SIZES = {'cpu': ((2, 5), 8, 16), 'cuda': ((2, 16), 64, 64)}


def convolutions(channels: int) -> AdditiveCoupling:
    half = channels // 2
    layers = [torch.nn.Conv2d(half, half, 3, padding=1) for _ in range(2)]
    return AdditiveCoupling(channels, torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]))


BLOCKS = {'convolutions': convolutions} | {form: FORMS[form] for form in ('coupling', 'certified')}


@pytest.mark.parametrize('name', BLOCKS)
def test_peak_does_not_grow_with_depth(device, name):
    torch.manual_seed(0)
    depths, channels, size = SIZES[device]
    x = torch.randn(2, channels, size, size).to(device)
    stored, recovered = [], []
    for depth in depths:
        stack = InvertibleSequential(*(BLOCKS[name](channels) for _ in range(depth))).to(device)
        MemoryFree(stack)(x).sum().backward()  # gradients of the parameters are there, and workspaces
        stored.append(peak_bytes(stack, x))
        recovered.append(peak_bytes(MemoryFree(stack), x))
    assert stored[1] > 1.5 * stored[0], (stored, recovered)
    assert recovered[1] < 1.25 * recovered[0], (stored, recovered)
    assert recovered[1] < stored[1], (stored, recovered)
