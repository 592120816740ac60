"""Measures latency and throughput of all heads, which take turns, so that a busy machine slows all of them alike.

Numbers that layers derive from their weights are computed before, as in a validation.

It runs in its own process: ``python -m mmseg_invattn.experiments.compare.speed FILE NAME=FOLDER ...``, with the folders
of trained runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from torch import nn

from ...engine.inference import init_model
from ...engine.launched import end_with_launcher
from ...layers import constant_weights
from .environment import device_name
from .folder import write_json
from .plan import config_of
from .training import checkpoint_of

BATCH = dict(cuda=8, cpu=4)
ROUNDS, LEAST_ROUNDS, SECONDS = 50, 3, 120  # for each batch size: most rounds, fewest rounds, seconds
Step = Callable[[], object]


def interleave(
    steps: Mapping[str, Step], wait: Step, rounds: int = ROUNDS, least: int = LEAST_ROUNDS, budget: float = SECONDS
) -> dict[str, list[float]]:
    """Seconds of every call; each round begins with another step.

    Args:
        steps: the functions that take turns, already warmed up.
        wait: function that waits for the device.
        rounds: largest number of rounds.
        least: number of rounds that are run even if they exceed the budget.
        budget: seconds after which no further round begins.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, begin = list(steps), time.perf_counter()
    for turn in range(rounds):
        if turn >= least and time.perf_counter() - begin > budget:
            break
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            times[name].append(time.perf_counter() - start)
    return times


@torch.no_grad()
def measure(folders: Mapping[str, Path]) -> dict:
    """Measure the runs' models on the first image of their test split, preprocessed before: logits, resize, argmax.

    Returns:
        ``device``, ``batch``, ``shape`` of the image, and ``heads``: name -> ``latency`` (median seconds of one image),
        ``throughput`` (images a second in batches), ``peak_bytes`` (of a batch, weights included; None on a CPU),
        ``rounds``, or ``error``.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch = BATCH[device]
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    heads: dict[str, dict] = {name: {} for name in folders}
    steps: dict[int, dict[str, Step]] = {1: {}, batch: {}}
    models, shape = {}, None
    for name, folder in folders.items():
        try:
            model = init_model(str(config_of(folder)), str(checkpoint_of(folder)), device)
            init_default_scope(model.cfg.get('default_scope', 'mmseg'))
            dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
            with constant_weights(model):
                for size in steps:
                    step, shape = _prediction(model, dataset, size)
                    heads[name]['peak_bytes'] = _warm_up(step, model, device)
                    steps[size][name] = step
            models[name] = model
        except (RuntimeError, OSError) as error:  # out of memory, or a checkpoint that was removed
            heads[name] = dict(error=str(error).splitlines()[0])
            for size in steps:
                steps[size].pop(name, None)
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(constant_weights(model))
        for size, taking_turns in steps.items():
            if not taking_turns:
                continue
            for name, times in interleave(taking_turns, wait).items():
                typical = median(times)
                heads[name].update(
                    {'latency': typical, 'rounds': len(times)} if size == 1 else {'throughput': size / typical}
                )
    return dict(device=device_name(), batch=batch, shape=shape, heads=heads)


def _prediction(model: nn.Module, dataset: object, size: int) -> tuple[Step, list[int]]:
    data = model.data_preprocessor(pseudo_collate([dataset[0]] * size), training=False)
    return lambda: model(**data, mode='predict'), list(data['inputs'].shape[2:])


def _warm_up(step: Step, model: nn.Module, device: str) -> int | None:
    """Call a step once; on a GPU, the peak of its memory without that of other models."""
    if device == 'cpu':
        step()
        return None
    step()  # the first call chooses algorithms
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    own = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return torch.cuda.max_memory_allocated() - before + own


if __name__ == '__main__':
    end_with_launcher()
    named = (argument.split('=', 1) for argument in sys.argv[2:])
    write_json(Path(sys.argv[1]), measure({name: Path(folder) for name, folder in named}))
