"""Invertible U-Nets: memory and time of a training step against the number of blocks and the size of the image.

The invertible U-Net with recovered activations is compared with the same network that stores them or has them
checkpointed, and with the package iunets (Etmann et al., https://arxiv.org/abs/2005.05220).
"""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_invattn.layers import GridCoupling

from ...wording import counted
from .blocks import feature_map, training_step
from .growth import PATIENCE
from .memory import GIB, Side, available
from .report import Line
from .session import Session
from .stacks import Copy
from .timing import Step

IUNETS = 'iunets 0.1'
INSTALL = 'not run: pip install --no-deps iunets==0.1 memcnn==1.5.2 (they need only torch and numpy)'


class Last(nn.Module):
    """Only the features of a backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)[-1]


class Checkpointed(nn.Module):
    """A sub-network whose activations are computed again in the backward pass."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


def ours(activations: str, channels: int, blocks: int, num_stages: int) -> nn.Module:
    from mmseg_invattn.models import InvUNet

    net = InvUNet(channels, channels, num_stages, blocks, memory_free=activations == 'recovered')
    for layer in list(net.modules()) if activations == 'checkpointed' else ():
        if isinstance(layer, GridCoupling):
            layer.net = Checkpointed(layer.net)
    return Last(net)


def iunets(channels: int, blocks: int, num_stages: int) -> nn.Module:
    """The same sizes: two couplings of two convolutions a block, channels that double from stage to stage."""
    from iunets import iUNet

    options = dict(module_kwargs=dict(block_depth=2))
    return nn.Sequential(Copy(), iUNet(channels, (2 * blocks,) * num_stages, dim=2, **options))


def u_net(
    activations: str, channels: int, blocks: int, num_stages: int, batch: int, size: tuple[int, int], device: str
) -> Step:
    torch.manual_seed(0)
    if activations == 'iunets':
        net = iunets(channels, blocks, num_stages)
    else:
        net = ours(activations, channels, blocks, num_stages)
    return training_step(net.to(device), feature_map(channels, size, device, batch), 'float32')


def run(session: Session) -> None:
    """In float32, as the couplings compute."""
    channels, stages, batch, size = (4, 3, 1, (8, 16)) if session.quick else (16, 5, 1, (256, 512))
    sizes = ((16, 16), (16, 32)) if session.quick else ((256, 512), (512, 1024), (1024, 2048))
    depths = (1, 2) if session.quick else (1, 2, 4, 8)
    options = dict(channels=channels, num_stages=stages, batch=batch, size=size, blocks=2, device=session.device)
    tiny = dict(size=(2 ** (stages - 1),) * 2, blocks=1)
    sides = {
        name: Side(u_net, options | dict(activations=name), tiny)
        for name in ('recovered', 'stored', 'checkpointed', 'iunets')
    }
    for blocks in depths:
        compare_all(session, sides, dict(blocks=blocks), size, rounds=3)
    # on a larger image, where the gradients of the parameters, which no method saves, are a small part
    few, many = (sides['recovered'].with_options(blocks=n, size=sizes[1]) for n in (depths[0], depths[-1]))
    session.compare(
        f'{depths[-1]} blocks a stage, recovered',
        f'{depths[0]} block a stage, recovered',
        shown(options, sizes[1]),
        many,
        few,
        memory_limit=1.15,
        rounds=1,
    )
    for size in sizes[1:]:
        compare_all(session, sides, dict(size=size), size, rounds=1)


def compare_all(session: Session, sides: dict[str, Side], change: dict, size: tuple[int, int], rounds: int) -> None:
    """One line for every peer; a peer that would not fit is named with the memory that it would need."""
    recovered = sides['recovered'].with_options(**change)
    what = f'{counted(recovered.options["blocks"], "block")} a stage, recovered'
    table = shown(recovered.options, size)
    for name, against, limit in (
        ('stored', 'activations stored', 1.6),
        ('checkpointed', 'torch.utils.checkpoint of each sub-network', None),
        ('iunets', IUNETS, None),
    ):
        if name == 'iunets' and importlib.util.find_spec('iunets') is None:
            session.add(Line(what, against, table, note=INSTALL))
            continue
        peer = sides[name].with_options(**change)
        half = tuple(max(n // 4, 2 ** (peer.options['num_stages'] - 1)) for n in size)
        small = session.usage(peer.with_options(size=half))
        factor = size[0] * size[1] / (half[0] * half[1])
        if small.memory * factor > 0.8 * available(session.device) or small.seconds * factor > PATIENCE:
            need = f'{small.memory * factor / GIB:.0f} GiB and {small.seconds * factor:.0f} s'
            session.add(Line(what, against, table, note=f'not run: it would need {need}'))
            continue
        session.compare(what, against, table, recovered, peer, time_limit=limit, rounds=rounds)


def shown(options: dict, size: Sequence[int]) -> dict:
    return dict(B=options['batch'], C=options['channels'], stages=options['num_stages'], image=f'{size[0]} x {size[1]}')
