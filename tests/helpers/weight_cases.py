"""Every layer with parameters, all that it says, and every way in which its parameters can change."""

import copy
import gc
import pickle
import sys
from collections.abc import Iterator

import torch
from helpers.block_cases import net
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmseg_invattn.layers import (
    FORMS,
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleModule,
    InvertibleSequential,
    InvRelativeAttention2d,
    MemoryFree,
    OrthogonalConv1x1,
)

HELD = sys.modules['mmseg_invattn.layers.constant_weights']._HELD


def weak_paper(**options) -> nn.Module:
    """Form paper, so weak that its inverse converges."""
    block = FORMS['paper'](8, gamma='scalar', **options)
    nn.init.constant_(block.gamma, 0.02)
    return block


def sequence() -> InvertibleSequential:
    return InvertibleSequential(
        ActNorm2d(8),
        CertifiedAttention2d(8, num_heads=2),
        OrthogonalConv1x1(8),
        InvertibleSequential(InvConv1x1(8), AdditiveCoupling(8, net(8)), FORMS['coupling'](8)),
        InvConvResidual(8, contraction=0.5),
        InvRelativeAttention2d(8, 3, contraction=0.5),
    )


MODES = 'embedded_gaussian', 'gaussian', 'concatenation', 'l2'
BUILDERS = {
    **{
        f'{form}-{mode}': lambda form=form, mode=mode, **more: FORMS[form](8, mode=mode, **more)
        for form in FORMS
        if form != 'paper'
        for mode in MODES
    },
    **{f'paper-{mode}': lambda mode=mode, **more: weak_paper(mode=mode, **more) for mode in MODES},
    'paper-conv': lambda: FORMS['paper'](8),
    'certified-heads': lambda **more: FORMS['certified'](
        8, num_heads=2, sharpness='learned', position='quadratic', **more
    ),
    'certified-shared': lambda **more: FORMS['certified'](8, num_heads=2, heads='shared', sharpness='log_n', **more),
    'conditional-heads': lambda **more: FORMS['conditional'](
        8, num_heads=2, sharpness='learned', position='learned', **more
    ),
    'channel': lambda **more: InvChannelAttention(8, sharpness='learned', **more),
    'convolutions': lambda **more: InvConvResidual(8, **more),
    'positions': lambda **more: InvRelativeAttention2d(8, 3, **more),
    'learned positions': lambda **more: InvRelativeAttention2d(
        8, 3, encoding='learned_2d', position_size=4, position_channels=5, **more
    ),
    'full positions': lambda **more: InvRelativeAttention2d(8, 3, covariance='full', **more),
    'orthogonal': lambda: OrthogonalConv1x1(8),
    'conv1x1': lambda: InvConv1x1(8),
    'actnorm': lambda: ActNorm2d(8),
    'sequence': sequence,
    'memory free': lambda: MemoryFree(CertifiedAttention2d(8, num_heads=2)),
    'memory free sequence': lambda: MemoryFree(sequence()),
}
CONTRACTIONS = [
    name
    for name in BUILDERS
    if name.startswith(('certified', 'conditional', 'channel', 'conv')) and name != 'conv1x1' or 'positions' in name
]


def build(name: str, **more) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[name](**more).eval()


def features() -> Tensor:
    return torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))


def results(layer: nn.Module, dtype: torch.dtype = torch.float32) -> list:
    """All that a layer says: outputs, inverse with its report, determinant, and every bound."""
    x = features().to(dtype)
    with torch.no_grad():
        y = layer(x)
        if not isinstance(layer, InvertibleModule):
            return [y]
        x_hat, info = layer.inverse(y, max_iter=30, strict=False)
        error = layer.error_norm(x) * 1e-3
        torch.manual_seed(2)
        both = layer.forward_and_log_abs_det(x, 2)
        return [
            y,
            x_hat,
            *info[:-1],
            layer.inverse_error(x, error),
            *both,
            layer.lipschitz_bound(),
            layer.lipschitz_bound(7),
            *layer.bi_lipschitz_bound(),
            layer.log_abs_det_error_bound(x, 2),
        ]


def equal(ours: list, theirs: list) -> bool:
    return all(
        torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )


def run(layer: nn.Module) -> None:
    """Every way in which something could be kept: with and without gradients, in inference mode."""
    layer(features()).square().sum().backward()
    layer.zero_grad()
    results(layer)
    with torch.inference_mode():
        layer(features())
        if isinstance(layer, InvertibleModule):
            layer.inverse(layer(features()), strict=False)
            layer.lipschitz_bound()


def fresh(name: str, state: dict[str, Tensor], **more) -> nn.Module:
    """A layer that has never run, with that state."""
    layer = build(name, **more).to(next(t.dtype for t in state.values() if t.is_floating_point()))
    layer.load_state_dict({key: tensor.detach().clone() for key, tensor in state.items()})
    return layer


def other_state(layer: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters of another checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    learned = {name for name, _ in layer.named_parameters()}
    return {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) if name in learned else tensor.clone()
        for name, tensor in layer.state_dict().items()
    }


def add_to_parameters(layer: nn.Module, value: float) -> None:
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(value)


# Each yields layers whose results are to be those of a fresh one; between them they are asked for.
def in_place(layer: nn.Module) -> Iterator[nn.Module]:
    for _ in range(2):
        with torch.no_grad():
            for p in layer.parameters():
                p.mul_(0.7).add_(0.1)
        yield layer


def fused_optimiser(layer: nn.Module) -> Iterator[nn.Module]:
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.05, fused=True)
    for _ in range(3):
        for p in layer.parameters():
            p.grad = torch.randn_like(p)
        optimiser.step()
        yield layer


def training(layer: nn.Module) -> Iterator[nn.Module]:
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.02, fused=True)
    for _ in range(3):
        optimiser.zero_grad()
        layer(features()).square().mean().backward()
        optimiser.step()
        yield layer


def loading(layer: nn.Module) -> Iterator[nn.Module]:
    for seed in (1, 2):
        layer.load_state_dict(other_state(layer, seed))
        yield layer


def assigning(layer: nn.Module) -> Iterator[nn.Module]:
    checkpoints = [other_state(layer, seed) for seed in (1, 2)]
    for k in (0, 1, 0):  # in turn: memory of the first may come back as that of another
        layer.load_state_dict(copy.deepcopy(checkpoints[k]), assign=True)
        gc.collect()
        yield layer


def deep_copies(layer: nn.Module) -> Iterator[nn.Module]:
    for _ in range(2):
        before, layer = layer, copy.deepcopy(layer)
        add_to_parameters(layer, 0.1)
        yield layer
        yield before


def pickles(layer: nn.Module) -> Iterator[nn.Module]:
    before, layer = layer, pickle.loads(pickle.dumps(layer))
    add_to_parameters(layer, 0.1)
    yield layer
    yield before


def vectors(layer: nn.Module) -> Iterator[nn.Module]:
    for sign in (1, -1):
        vector = parameters_to_vector(layer.parameters()).detach()
        vector_to_parameters(vector + sign * 0.1, layer.parameters())
        yield layer
        vector.fill_(3.0)  # parameters are views of the vector that was given, and not of this one
        yield layer


def data_writes(layer: nn.Module) -> Iterator[nn.Module]:
    for p in layer.parameters():
        p.data.mul_(0.8)
    yield layer
    for p in layer.parameters():
        p.data = p.data + 0.1
    yield layer


def another_dtype(layer: nn.Module) -> Iterator[nn.Module]:
    yield layer.double()
    yield layer.float()


def moving_average(layer: nn.Module) -> Iterator[nn.Module]:
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5)).eval()
    average.update_parameters(layer)
    yield average.module
    for _ in range(3):
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1)
        average.update_parameters(layer)
        yield average.module
        yield layer


CHANGES = [
    in_place,
    fused_optimiser,
    training,
    loading,
    assigning,
    deep_copies,
    pickles,
    vectors,
    data_writes,
    another_dtype,
    moving_average,
]


def pruned(layer: nn.Module) -> None:
    """Every third number of every parameter."""
    for module in list(layer.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            mask = torch.ones_like(parameter)
            mask.view(-1)[::3] = 0
            prune.custom_from_mask(module, name, mask)
