"""Extra memory of a workload: its peak minus the memory in use once its inputs exist.

On the CPU ``ru_maxrss`` counts the whole process, so each measurement runs in a separate process. It is forked from a
server that has imported everything and computed nothing: a newly started process would need seconds for imports, and
would inherit the peak of its parent through ``exec``. On CUDA the allocator records the peak. Linux only, because it
reads /proc.
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

from ...evaluation.step_memory import available_memory
from .timing import Step, seconds, waiter

GIB = 2**30
RESOLUTION = 2**20  # bytes; smaller measurements are rounded up to this, so that ratios are meaningful
M_MMAP_THRESHOLD, MAPPED = -3, 2**17  # blocks of at least 2**17 bytes are returned by glibc when they are freed
SERVED = [f'mmseg_invattn.experiments.benchmark.{name}' for name in ('kernels', 'blocks', 'models', 'u_net')]


class Side(NamedTuple):
    """A workload that any process can build.

    Attributes:
        build: a module-level function that returns the step to measure.
        options: arguments of this function.
        tiny: arguments that differ for the warm-up.
    """

    build: Callable[..., Step]
    options: dict
    tiny: dict

    def step(self) -> Step:
        return self.build(**self.options)

    def with_options(self, **options: object) -> 'Side':
        return self._replace(options=self.options | options)


class Usage(NamedTuple):
    """Memory (bytes) and time (seconds) of one call of a step."""

    memory: int
    seconds: float


def measure(side: Side, device: str) -> Usage:
    """Usage of one call, in a fresh process if the device is the CPU.

    Raises:
        MemoryError: the process was killed, probably because memory ran out.
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
    """The server that forks fresh processes; started once, with everything imported that a side may need."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(SERVED)
    # The server silently skips modules that are not on the path of a new interpreter, so give it our path.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return context


def measure_here(side: Side, device: str) -> Usage:
    """Usage of one call in this process, after a warm-up with the tiny workload."""
    warm = side.build(**side.options | side.tiny)
    warm()
    step, wait = side.step(), waiter(device)
    before = start_peak(device)
    time = seconds(step, wait)
    return Usage(max(peak(device) - before, RESOLUTION), time)


def tried(side: Side) -> Usage:
    """Usage of one call on the CPU, without measuring memory: it is set to ``RESOLUTION``."""
    return Usage(RESOLUTION, seconds(side.step(), waiter('cpu')))


def start_peak(device: str) -> int:
    """Bytes in use now; restarts the measurement of :func:`peak`."""
    gc.collect()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # Make the allocator return freed memory: memory that it keeps may be reused without being counted, or be counted
    # without being in use.
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):  # glibc
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
        libc.malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak of the warm-up
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def peak(device: str) -> int:
    """Most bytes in use since :func:`start_peak`."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available(device: str) -> int:
    """Bytes of memory available to a workload."""
    if device.startswith('cuda'):
        return torch.cuda.mem_get_info()[0]
    memory = available_memory()
    assert memory is not None, 'Linux only, as the whole module'
    return memory
