"""Attention blocks against the ordinary non-local block: forward and backward."""

import torch
from torch import Tensor, nn

from mmseg_invattn.layers import CertifiedAttention2d, NonLocalAttention2d
from mmseg_invattn.layers.attention.modes import MODES

from .growth import grow
from .memory import Side
from .precision import autocast, branch_precision
from .session import Session
from .timing import Step

# mmcv's names of the layers of its NonLocal2d -> those of the ordinary block
MMCV = {'theta': 'attention.mode.query', 'phi': 'attention.mode.key', 'g': 'value', 'conv_out': 'out'}


def training_step(module: nn.Module, x: Tensor, dtype: str) -> Step:
    """Forward pass under autocast to the dtype, and backward pass with a gradient of ones for the output."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        with autocast(dtype, x.device):
            y = module(x)
        y.backward(torch.ones_like(y))

    return step


def feature_map(channels: int, size: tuple[int, int], device: str, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, *size, generator=generator).to(device).requires_grad_()


def build_mmcv(channels: int) -> nn.Module:
    """mmcv's block, with weights for which its branch is not zero."""
    from mmcv.cnn import NonLocal2d

    torch.manual_seed(0)
    block = NonLocal2d(channels, reduction=2, mode='embedded_gaussian')
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=channels**-0.5)
    return block


def mmcv_block(channels: int, size: tuple[int, int], dtype: str, device: str) -> Step:
    return training_step(build_mmcv(channels).to(device), feature_map(channels, size, device), dtype)


def ordinary(channels: int, size: tuple[int, int], dtype: str, device: str) -> Step:
    """The ordinary block of this project, without a certificate, with the weights of :func:`mmcv_block`."""
    block = NonLocalAttention2d(channels, reduction=2, mode='embedded_gaussian')
    state = {}
    for name, tensor in build_mmcv(channels).state_dict().items():
        layer, _, kind = name.split('.')
        weight = tensor[None, :, :, 0, 0] if kind == 'weight' else tensor if layer == 'conv_out' else tensor[None]
        ours = 'bias.vector' if (layer, kind) == ('conv_out', 'bias') else f'{MMCV[layer]}.{kind}'
        state[f'branch.{ours}'] = weight
    block.load_state_dict(state)
    return training_step(block.to(device), feature_map(channels, size, device), dtype)


def certified(channels: int, size: tuple[int, int], dtype: str, device: str, mode: str = 'embedded_gaussian') -> Step:
    torch.manual_seed(0)
    block = CertifiedAttention2d(channels, reduction=2, mode=mode, precision=branch_precision(dtype))
    return training_step(block.to(device), feature_map(channels, size, device), dtype)


def run(session: Session) -> None:
    channels, size, twice = (16, (8, 16), (16, 32)) if session.quick else (256, (64, 128), (128, 256))
    pixels = size[0] * size[1]
    for dtype in session.dtypes:
        options, tiny = dict(channels=channels, size=size, dtype=dtype, device=session.device), dict(size=(4, 4))
        ours, sizes = Side(ordinary, options, tiny), dict(C=channels, N=pixels, dtype=dtype)
        on_tensor_cores = session.on_gpu and dtype == 'bfloat16'
        session.compare(
            'embedded_gaussian, form none',
            "mmcv's NonLocal2d, same weights",
            sizes,
            ours,
            Side(mmcv_block, options, tiny),
            time_limit=1 / 4 if on_tensor_cores else 1 / 1.25,
            memory_limit=1 / 6,
        )
        grow(
            session,
            'embedded_gaussian, form none',
            ours,
            'size',
            [size, twice],
            [pixels, 4 * pixels],
            sizes=dict(C=channels, dtype=dtype),
        )
        session.compare(
            'certified block, embedded_gaussian',
            'the same kernel without certificate',
            sizes,
            Side(certified, options, tiny),
            ours,
            time_limit=1.1,
        )


def growth(session: Session) -> None:
    """Growth of time and memory for every mode in the certified form, with 64 channels."""
    sides = [8, 16, 32] if session.quick else [32, 64, 128]
    for dtype in session.dtypes:
        for mode in MODES:
            options = dict(channels=16 if session.quick else 64, dtype=dtype, device=session.device, mode=mode)
            side = Side(certified, options, dict(size=(4, 4)))
            grow(
                session,
                f'certified block, {mode}',
                side,
                'size',
                [(n, n) for n in sides],
                [n * n for n in sides],
                sizes=dict(C=options['channels'], dtype=dtype),
            )
