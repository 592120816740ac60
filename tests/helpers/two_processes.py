"""Two processes that work together, forked from that of the tests, which has all imports behind it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes


def _begin(rank: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # a fork must not wait for the threads of its parent
    work(rank, *arguments)


def in_two_processes(work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)`` with the ranks 0 and 1, and wait for both; an error there is one here."""
    start_processes(_begin, args=(work, arguments), nprocs=2, start_method='fork')
