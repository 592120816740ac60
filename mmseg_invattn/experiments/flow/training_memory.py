"""Peak memory of a training step of a flow, measured at small batches and extrapolated to a larger one."""

import multiprocessing
import resource
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

GIB = 2**30


def step_memory(cfg: Config, batch: int, memory_free: bool, steps: int = 2) -> int:
    """Peak bytes of a few training steps: parameters, gradients, optimiser and activations.

    On the CPU (Linux only) a forked process measures its largest resident set minus that before the model was built. On
    CUDA it is the peak of the allocator.

    Args:
        cfg: config of a flow.
        batch: random images in a batch.
        memory_free: recover activations instead of storing them.
        steps: number of steps; the first one also initialises the optimiser and the data-dependent normalisation.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _steps(cfg, batch, memory_free, steps, 'cuda')
        return torch.cuda.max_memory_allocated() - before
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    process = context.Process(target=_measure, args=(queue, cfg, batch, memory_free, steps))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.1)
    if queue.empty():
        raise MemoryError(
            f'a step with batch size {batch} ended with exit code {process.exitcode}: it probably ran out of '
            'memory; use smaller batches'
        )
    result = queue.get()
    process.join()
    return result


def extrapolate(batches: Sequence[int], memory: Sequence[int], target: int) -> tuple[float, float]:
    """(fixed bytes, bytes per image) of the line through the first and the last measurement.

    Raises:
        ValueError: fewer than two different batch sizes, or a target below the largest of them.
    """
    if len(set(batches)) < 2 or target < max(batches):
        raise ValueError(
            f'batches={tuple(batches)} and target={target}: give two different batch sizes, and a target that is at '
            'least the larger one'
        )
    slope = (memory[-1] - memory[0]) / (batches[-1] - batches[0])
    return memory[0] - slope * batches[0], slope


def _measure(queue, *arguments) -> None:
    before = _resident()
    _steps(*arguments, 'cpu')
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def _resident() -> int:
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _steps(cfg: Config, batch: int, memory_free: bool, steps: int, device: str) -> None:
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    torch.manual_seed(0)
    backbone = dict(cfg.model.backbone, memory_free=memory_free)
    model = MODELS.build(dict(cfg.model, backbone=backbone)).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    x = torch.rand(batch, 3, *cfg.model.image_size, device=device) - 0.5
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    for _ in range(steps):
        model.train_step(dict(inputs=x, labels=labels), optim_wrapper)
