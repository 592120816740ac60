"""Memory that does not grow with depth: stacks of blocks with :class:`MemoryFree`, against one block and autograd."""

import torch

from mmseg_invattn.layers import FORMS, InvertibleSequential, MemoryFree

from .blocks import feature_map, training_step
from .memory import Side
from .session import Session
from .timing import Step

DEPTH = 16
TIME_LIMITS = {'coupling': 2.5, 'certified': 6.0}  # over plain autograd's


def stack(
    form: str, depth: int, memory_free: bool, batch: int, channels: int, size: tuple[int, int], dtype: str, device: str
) -> Step:
    torch.manual_seed(0)
    blocks = InvertibleSequential(*(FORMS[form](channels) for _ in range(depth)))
    blocks.to(device, getattr(torch, dtype))
    x = feature_map(channels, size, dtype, device, batch)
    return training_step(MemoryFree(blocks) if memory_free else blocks, x)


def run(session: Session) -> None:
    batch, channels, size, depth = (2, 8, (4, 4), 4) if session.quick else (8, 64, (32, 32), DEPTH)
    for dtype in session.dtypes:
        for form, limit in TIME_LIMITS.items():
            options = dict(form=form, batch=batch, channels=channels, size=size, dtype=dtype, device=session.device)
            tiny = dict(size=(2, 2))
            deep, flat, plain = (
                Side(stack, options | dict(depth=d, memory_free=free), tiny)
                for d, free in ((depth, True), (1, True), (depth, False))
            )
            sizes = dict(B=batch, C=channels, N=size[0] * size[1], dtype=dtype)
            session.compare(
                f'{depth} {form} blocks, memory-free',
                '1 block, memory-free',
                sizes,
                deep,
                flat,
                memory_limit=1.2,
                rounds=3,
            )
            session.compare(
                f'{depth} {form} blocks, memory-free',
                f'{depth} blocks, plain autograd',
                sizes,
                deep,
                plain,
                time_limit=limit,
                rounds=3,
            )
