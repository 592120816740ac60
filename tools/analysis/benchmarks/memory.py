"""Extra memory of a workload: its peak, less what was there when its inputs were.

On the CPU ``ru_maxrss`` counts the process, so each measurement has a process of its own, forked from a server that has
imported everything and computed nothing. A process started anew would spend seconds on imports, and ``exec`` hands it
the high-water mark of its parent. On CUDA the allocator keeps the peak.
"""
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch

from .timing import Step, seconds, waiter

GIB = 2**30
RESOLUTION = 2**20  # bytes; smaller measurements are rounded up to it, so that their ratio means something
SERVED = [f'benchmarks.{name}' for name in ('kernels', 'blocks', 'models')]


class Side(NamedTuple):
    """A workload that any process can build.

    Attributes:
        build: a function of a module, which returns the step to measure.
        options: its arguments.
        tiny: those that differ in the warm-up.
    """
    build: Callable[..., Step]
    options: dict
    tiny: dict

    def step(self) -> Step:
        return self.build(**self.options)

    def with_options(self, **options: object) -> 'Side':
        return self._replace(options=self.options | options)


class Usage(NamedTuple):
    """What one call of a step took; ``memory`` in bytes."""
    memory: int
    seconds: float


def measure(side: Side, device: str) -> Usage:
    """Usage of one call, in a fresh process where the device is the CPU.

    Raises:
        MemoryError: the process was killed, as it is for lack of memory.
    """
    if device.startswith('cuda'):
        return measure_here(side, device)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(SERVED)
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure_here, side, device).result()
    except BrokenProcessPool as error:
        raise MemoryError(f'the process that ran {side.build.__name__} with {side.options} was killed: choose a '
                          'smaller size, or free memory') from error


def measure_here(side: Side, device: str) -> Usage:
    """Usage of one call in this process, after one of the tiny workload."""
    side.build(**side.options | side.tiny)()
    step, wait = side.step(), waiter(device)
    if device.startswith('cuda'):
        wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident_peak()
    time = seconds(step, wait)
    peak = torch.cuda.max_memory_allocated() if device.startswith('cuda') else resident_peak()
    return Usage(max(peak - before, RESOLUTION), time)


def resident_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def available(device: str) -> int:
    """Bytes that a workload can have."""
    if device.startswith('cuda'):
        return torch.cuda.mem_get_info()[0]
    meminfo = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    return int(meminfo['MemAvailable'].split()[0]) * 1024
