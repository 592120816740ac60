"""The invertible U-Net: exact inverses, gradients, and memory by what the allocator says."""

import pytest
import torch
from helpers.backbone_cases import images
from helpers.peak_memory import peak_bytes

from mmseg_invattn.layers.flow.grid import to_grid
from mmseg_invattn.models import InvUNet

# base channels, stages, height and width
SIZES = {'cpu': (4, 3, 64, 128), 'cuda': (32, 5, 256, 512)}


def u_net(device: str, **options) -> InvUNet:
    channels, stages, *_ = SIZES[device]
    return InvUNet(**(dict(base_channels=channels, num_stages=stages, stage_blocks=1) | options)).to(device)


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling'])
def test_the_image_comes_back_bit_for_bit(device, form):
    torch.manual_seed(0)
    net = u_net(device, attention=dict(form=form), attention_stages=(SIZES[device][1] - 1,)).eval()
    x = images(2, 3, *SIZES[device][2:]).to(device)
    with torch.no_grad():
        x_hat, info = net.inverse(net(x))
    assert torch.equal(x_hat, to_grid(x)) and info.converged.all()
    assert ((x_hat - x).norm(dim=1).amax((1, 2)) <= info.error_bound).all() and (info.error_bound < 1.1e-4).all()


def test_peak_does_not_grow_with_the_blocks(device):
    torch.manual_seed(1)
    x = images(1, 3, *SIZES[device][2:]).to(device)
    stored, recovered = [], []
    for blocks in (1, 4):
        for free, peaks in ((True, recovered), (False, stored)):
            net = u_net(device, stage_blocks=blocks, memory_free=free)
            net(x)[-1].sum().backward()  # gradients of the parameters are there, and workspaces
            peaks.append(peak_bytes(lambda x, net=net: net(x)[-1], x))
    assert recovered[1] < 1.25 * recovered[0] and stored[1] > 1.8 * stored[0], (stored, recovered)
