"""Works on several runs at the same time, each in a thread that waits for the processes of its run."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from .process import Processes

Item = TypeVar('Item')
PATIENCE = 10  # seconds in which processes are to end by themselves


def work_on_all(
    items: Sequence[Item], jobs: int, work: Callable[[Item, Mapping[str, str]], None], processes: Processes
) -> None:
    """Work on all items in their order, ``jobs`` at a time; the first error or interrupt ends all of them.

    Args:
        items: the items.
        jobs: number of items at the same time. With one, this thread does the work.
        work: function of an item and the environment variables of its processes.
        processes: the processes that ``work`` starts.
    """
    if jobs == 1:
        for item in items:
            work(item, {})
        return
    places: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for number in range(jobs):
        places.put(gpu_of(number))

    def take_a_place(item: Item) -> None:
        place = places.get()
        try:
            work(item, place)
        finally:
            places.put(place)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(take_a_place, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            if wait(futures, PATIENCE).not_done:
                processes.stop(signal.SIGKILL)
            raise


def gpu_of(number: int) -> dict[str, str]:
    """The environment that gives the job with this number a GPU of its own where there are several."""
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',') if visible else list(map(str, range(count)))
    return dict(CUDA_VISIBLE_DEVICES=names[number % count])


@contextmanager
def shared_cores(jobs: int) -> Iterator[None]:
    """Give each job its share of the cores, unless the user has set ``OMP_NUM_THREADS``."""
    if jobs == 1 or 'OMP_NUM_THREADS' in os.environ:
        yield
        return
    before = torch.get_num_threads()
    threads = max(1, before // jobs)
    os.environ['OMP_NUM_THREADS'] = str(threads)
    torch.set_num_threads(threads)  # so that the recorded number of threads is that of the runs
    try:
        yield
    finally:
        del os.environ['OMP_NUM_THREADS']
        torch.set_num_threads(before)
