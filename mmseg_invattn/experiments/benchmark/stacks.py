"""Memory that does not grow with depth.

Stacks of blocks with :class:`MemoryFree` are compared with one block and with plain autograd, and chains of couplings
with activations that are stored, checkpointed, or recovered by MemCNN.
"""

import importlib.util

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_invattn.layers import FORMS, AdditiveCoupling, InvertibleSequential, MemoryFree

from .blocks import feature_map, training_step
from .memory import Side
from .precision import branch_precision
from .report import Line, compared
from .session import Session
from .timing import Step

DEPTH = 16
TIME_LIMITS = {'coupling': 1.4, 'certified': 2.2}  # relative to plain autograd
GRADIENT_ERROR = 1e-5
MEMCNN = 'MemCNN 1.5.2'
INSTALL = 'not run: pip install --no-deps memcnn==1.5.2 (it needs only torch and numpy)'


def built(
    form: str, depth: int, memory_free: bool, batch: int, channels: int, size: tuple[int, int], dtype: str, device: str
) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    blocks = InvertibleSequential(*(FORMS[form](channels, precision=branch_precision(dtype)) for _ in range(depth)))
    with torch.no_grad():
        for coupling in blocks if form == 'coupling' else ():
            # the branches of a coupling are not bounded: start a deep stack with small branches, as in other networks
            coupling.first.out.weight.div_(depth), coupling.second.out.weight.div_(depth)
    blocks.to(device)
    return MemoryFree(blocks) if memory_free else blocks, feature_map(channels, size, device, batch)


def stack(**options) -> Step:
    return training_step(*built(**options), options['dtype'])


def gradient(**options) -> Tensor:
    """Gradients of x and all parameters, concatenated."""
    module, x = built(**options)
    training_step(module, x, options['dtype'])()
    return torch.cat([t.grad.flatten() for t in (x, *module.parameters()) if t.grad is not None])


def compare_gradients(session: Session, what: str, against: str, sizes: dict, options: dict) -> None:
    """Relative difference between the memory-free gradient and that of plain autograd.

    In float32 it is compared with the allowed difference; in a lower precision, with the effect of that precision on
    the gradient of plain autograd.
    """
    recovered, plain = (gradient(**options | dict(memory_free=free)) for free in (True, False))
    error = [float((recovered - plain).norm() / plain.norm())]
    if options['dtype'] == 'float32':
        quantity = compared('gradient off against what is allowed', '', error, [GRADIENT_ERROR], 1.0)
    else:
        exact = gradient(**options | dict(memory_free=False, dtype='float32'))
        rounded = [float((exact - plain).norm() / plain.norm())]
        quantity = compared(f'gradient off against what {options["dtype"]} does', '', error, rounded)
    session.add(Line(what, against, sizes, [quantity]))


def branch(channels: int) -> nn.Module:
    """Sub-network of a coupling: 3x3 convolution, ReLU, 3x3 convolution."""
    convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1])


class Stored(nn.Module):
    """The chain in plain torch: two streams that change alternately; autograd stores the activations."""

    def __init__(self, branches: list[nn.Module], checkpointed: bool = False):
        super().__init__()
        self.branches, self.checkpointed = nn.ModuleList(branches), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        changed, passed = x.chunk(2, 1)
        for net in self.branches:
            out = checkpoint(net, passed, use_reentrant=False) if self.checkpointed else net(passed)
            passed, changed = changed + out, passed
        return torch.cat((changed, passed) if len(self.branches) % 2 == 0 else (passed, changed), 1)


class Copy(nn.Module):
    """Copies its input. MemCNN frees the storage of its input and sets its gradient, so it must not be a leaf."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def with_memcnn(branches: list[nn.Module]) -> nn.Module:
    """The chain with activations recovered by MemCNN; each of its couplings holds two branches."""
    import memcnn

    pairs = zip(branches[::2], branches[1::2], strict=True)
    return nn.Sequential(Copy(), *(memcnn.InvertibleModuleWrapper(memcnn.AdditiveCoupling(*pair)) for pair in pairs))


def recovered(branches: list[nn.Module]) -> nn.Module:
    channels = 2 * branches[0][0].in_channels
    layers = [AdditiveCoupling(channels, net, swap=k % 2 == 0) for k, net in enumerate(branches)]
    return MemoryFree(InvertibleSequential(*layers))


CHAINS = {
    'recovered': recovered,
    'stored': Stored,
    'checkpointed': lambda branches: Stored(branches, checkpointed=True),
    'MemCNN': with_memcnn,
}


def couplings(chain: str, depth: int, batch: int, channels: int, size: tuple[int, int], device: str) -> Step:
    torch.manual_seed(0)
    module = CHAINS[chain]([branch(channels // 2) for _ in range(depth)]).to(device)
    return training_step(module, feature_map(channels, size, device, batch), 'float32')


def run(session: Session) -> None:
    """Small maps on a CPU; on a GPU maps as large as in a head."""
    batch, channels, size, depth = (2, 8, (4, 4), 4) if session.quick else (8, 64, (32, 32), DEPTH)
    if session.on_gpu and not session.quick:
        batch, channels, size = 2, 256, (64, 128)
    for dtype in session.dtypes:
        for form, limit in TIME_LIMITS.items():
            options = dict(form=form, batch=batch, channels=channels, size=size, dtype=dtype, device=session.device)
            tiny = dict(size=(2, 2))
            deep, flat, plain = (
                Side(stack, options | dict(depth=d, memory_free=free), tiny)
                for d, free in ((depth, True), (1, True), (depth, False))
            )
            sizes = dict(B=batch, C=channels, N=size[0] * size[1], dtype=dtype)
            what, against = f'{depth} {form} blocks, memory-free', f'{depth} blocks, plain autograd'
            session.compare(what, '1 block, memory-free', sizes, deep, flat, memory_limit=1.2, rounds=3)
            session.compare(what, against, sizes, deep, plain, time_limit=limit, rounds=3)
            compare_gradients(session, what, against, sizes, options | dict(depth=depth))


def run_couplings(session: Session) -> None:
    """In float32, because sub-networks of couplings run in float32 even under autocast."""
    batch, channels, size, (few, depth, many) = (
        (2, 8, (4, 4), (2, 4, 6)) if session.quick else (4, 64, (96, 96), (8, 32, 64))
    )
    options = dict(depth=depth, batch=batch, channels=channels, size=size, device=session.device)
    sides = {chain: Side(couplings, options | dict(chain=chain), dict(size=(2, 2))) for chain in CHAINS}
    sizes = dict(B=batch, C=channels, N=size[0] * size[1], dtype='float32')
    what = f'{depth} couplings, memory-free'
    for chain, against, limits in (
        ('stored', 'stored activations', dict(time_limit=1.2)),
        ('checkpointed', 'torch.utils.checkpoint of each sub-network', {}),
        ('MemCNN', MEMCNN, dict(time_limit=0.75, memory_limit=1.0)),
    ):
        if chain == 'MemCNN' and importlib.util.find_spec('memcnn') is None:
            session.add(Line(what, against, sizes, note=INSTALL))
        else:
            session.compare(what, against, sizes, sides['recovered'], sides[chain], rounds=5, **limits)
    session.compare(
        f'{many} couplings, memory-free',
        f'{few} couplings, memory-free',
        sizes,
        sides['recovered'].with_options(depth=many),
        sides['recovered'].with_options(depth=few),
        memory_limit=1.1,
        rounds=3,
    )
