"""Extra memory of a workload: its peak, less what was there when its inputs were.

On the CPU ``ru_maxrss`` counts the process, so each measurement has a process of its own, forked from a server that has
imported everything and computed nothing. A process started anew would spend seconds on imports, and ``exec`` hands it
the high-water mark of its parent. On CUDA the allocator keeps the peak. Linux
only, for what it reads from /proc.
"""

import ctypes
import gc
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from .timing import Step, seconds, waiter

GIB = 2**30
RESOLUTION = 2**20  # bytes; smaller measurements are rounded up to it, so that their ratio means something
M_MMAP_THRESHOLD, MAPPED = -3, 2**17  # bytes from which glibc returns freed memory at once
SERVED = [f'mmseg_invattn.experiments.benchmark.{name}' for name in ('kernels', 'blocks', 'models')]


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
    try:
        with ProcessPoolExecutor(1, mp_context=server()) as pool:
            return pool.submit(measure_here, side, device).result()
    except BrokenProcessPool as error:
        raise MemoryError(
            f'the process that ran {side.build.__name__} with {side.options} was killed: choose a '
            'smaller size, or free memory'
        ) from error


@cache
def server() -> BaseContext:
    """The server of fresh processes, started once, with all that a side may need imported."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(SERVED)
    # It leaves out, without a word, what it does not find on the path of a new interpreter.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return context


def measure_here(side: Side, device: str) -> Usage:
    """Usage of one call in this process, after one of the tiny workload."""
    warm = side.build(**side.options | side.tiny)
    warm()
    step, wait = side.step(), waiter(device)
    before = start_peak(device)
    time = seconds(step, wait)
    return Usage(max(peak(device) - before, RESOLUTION), time)


def tried(side: Side) -> Usage:
    """Usage of one call on the CPU, the least memory standing for all."""
    return Usage(RESOLUTION, seconds(side.step(), waiter('cpu')))


def start_peak(device: str) -> int:
    """Bytes in use now, from which :func:`peak` counts on."""
    gc.collect()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # Freed memory that the allocator keeps would be used again and not be seen, or be seen and not be in use.
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):  # glibc
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
        libc.malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak so far is that of the warm-up
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def peak(device: str) -> int:
    """Most bytes in use since :func:`start_peak`."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available(device: str) -> int:
    """Bytes that a workload can have."""
    if device.startswith('cuda'):
        return torch.cuda.mem_get_info()[0]
    meminfo = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    return int(meminfo['MemAvailable'].split()[0]) * 1024
